"""All measurements in one table: `make bench`, or `python -m benchmarks`. It takes about an hour."""

from __future__ import annotations

from itertools import chain

from benchmarks import discovery, forget, latency, memory, pca, planning, s3, throughput
from benchmarks.common import print_figures

if __name__ == "__main__":
    modules = (throughput, latency, memory, planning, discovery, forget, pca, s3)
    print_figures(chain.from_iterable(module.measure() for module in modules))
