"""Helpers of the benchmarks, and the programs that they compare with."""
