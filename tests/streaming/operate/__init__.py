"""Tests of `streaming.operate`."""
