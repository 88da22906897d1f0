"""Tests of `streaming.registry`."""
