"""Tests of `streaming.storage`."""
