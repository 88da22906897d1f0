"""Tests of whole programs: what kills, faults, machines and people do to them."""
