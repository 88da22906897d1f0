"""Tests of `streaming.discovery`."""
