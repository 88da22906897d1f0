"""Tests of `streaming.lease`."""
