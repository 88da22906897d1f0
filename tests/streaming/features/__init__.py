"""Tests of `streaming.features`."""
