"""Tests of `streaming.export`."""
