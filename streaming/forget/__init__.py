"""Forget: erases pictures from an output and from everything that was made of it."""
