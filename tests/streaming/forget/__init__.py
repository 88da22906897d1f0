"""Tests of `streaming.forget`."""
