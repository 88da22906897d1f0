"""Tests of settings, logs and what a terminal shows."""
