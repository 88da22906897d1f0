"""Whether anything grows while a stream works: memory of its processes, checkpoint, records, logs.

    python -m benchmarks.endurance [MICRO_BATCHES]

One long replay of tiny micro-batches, which are what makes things grow. A slope is a straight line through the second
half, when caches are full: what 1,000 micro-batches more would add.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from benchmarks.support.common import Figure, arguments, at_most, java_of, link_pictures, print_figures, workers_of
from tests.support.samples import write_samples
from tests.support.scratch import new_place
from tests.support.streams import Place, start

_MICRO_BATCHES = 1200
_PER_BATCH = 2
_TARGETS = {"driver, Python": 10.0, "workers": 10.0}  # MB per 1,000; a JVM's heap grows to its limit anyhow
_PAUSE = 2.0


def measure(micro_batches: int = _MICRO_BATCHES) -> Iterator[Figure]:
    """Slopes per 1,000 micro-batches, and the last sizes."""
    with new_place() as place:
        pictures = write_samples(place.root / "pictures", 100, broken=0).pictures
        link_pictures(place.source, pictures, micro_batches * _PER_BATCH)
        stream = start("streaming", arguments(place, "replay", "--max-pictures", str(_PER_BATCH)))
        samples = _sample(place, stream)
        said, _ = stream.communicate()
        assert stream.returncode == 0, said
    done = np.array(samples.pop("micro-batches"))
    late = done > done[-1] / 2
    yield Figure("micro-batches", f"{done[-1]:,.0f}")
    for name, sizes in samples.items():
        slope = np.polyfit(done[late], np.array(sizes)[late], 1)[0] * 1000
        what = f"{name}, at the end {sizes[-1]:.1f} MB, per 1,000 micro-batches"
        yield at_most(what, slope, _TARGETS[name], " MB") if name in _TARGETS else Figure(what, f"{slope:.2f} MB")


def _sample(place: Place, stream: subprocess.Popen[str]) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = defaultdict(list)
    while stream.poll() is None:
        time.sleep(_PAUSE)
        committed = place.committed()
        if not committed:
            continue
        try:
            sizes = _sizes(place, stream)
        except (psutil.Error, ValueError):  # a process has just ended
            continue
        samples["micro-batches"].append(committed)
        for name, size in sizes.items():
            samples[name].append(size / 1e6)
    return samples


def _sizes(place: Place, stream: subprocess.Popen[str]) -> dict[str, int]:
    return {
        "driver, Python": psutil.Process(stream.pid).memory_info().rss,
        "driver, Java": java_of(stream).memory_info().rss,
        "workers": sum(worker.memory_info().rss for worker in workers_of(stream)),
        "checkpoint": _tree(place.checkpoint),
        "manifests": _tree(place.output / "_manifests"),
        "record of known pictures": _tree(place.output / "_known"),
        "logs": _tree(place.root / "log"),
    }


def _tree(folder: Path) -> int:
    size = 0
    for root, _, files in os.walk(folder):
        for file in files:
            try:
                size += os.stat(os.path.join(root, file)).st_size
            except FileNotFoundError:
                continue
    return size


if __name__ == "__main__":
    print_figures(measure(*map(int, sys.argv[1:])))
