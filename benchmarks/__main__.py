"""All measurements in one table: `make bench`, or `python -m benchmarks`. It takes nearly three hours."""

from __future__ import annotations

from itertools import chain

from benchmarks import (
    ceiling,
    classifier,
    discovery,
    drift,
    embeddings,
    endurance,
    export,
    export_model,
    forget,
    latency,
    memory,
    overhead,
    pca,
    planning,
    reconcile,
    s3,
    similar,
    start_up,
    throughput,
)
from benchmarks.support.common import print_figures

if __name__ == "__main__":
    the_stream = (start_up, throughput, overhead, latency, memory, planning, ceiling, discovery, s3, endurance)
    modules = (*the_stream, embeddings, reconcile, export, export_model, forget, similar, pca, drift, classifier)
    print_figures(chain.from_iterable(module.measure() for module in modules))
