"""Tests of the application on Amazon EMR, without AWS."""
