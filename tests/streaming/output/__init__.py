"""Tests of `streaming.output`."""
