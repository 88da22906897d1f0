"""Tests of the stream, in the rooms that it has."""
