"""Measurements: ratios between things that run in the same session on the same machine; `make bench` runs them."""
