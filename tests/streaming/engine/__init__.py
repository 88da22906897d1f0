"""Tests of `streaming.engine`."""
