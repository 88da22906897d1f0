"""Measures the time from a picture's arrival to its readable row, in a stream with the shortest sensible interval.

    python -m benchmarks.latency

Pictures are renamed into the input one at a time, with random pauses; a reader looks for new files of the table and
reads them with pyarrow.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.support.common import INTERVAL, Figure, at_most, print_figures, running
from tests.support.samples import write_samples
from tests.support.scratch import new_place
from tests.support.streams import Place

_WARM_UP = 15
_PICTURES = 100
_PAUSE = (0.3, 1.5)  # seconds


def measure() -> Iterator[Figure]:
    """Median and 95th percentile."""
    with new_place() as place:
        pictures = write_samples(place.root / "arriving", _WARM_UP + _PICTURES, broken=0).pictures
        with running(place) as stream:
            seconds = _latencies(place, pictures, stream)[_WARM_UP:]
    p50, p95 = np.percentile(seconds, [50, 95])
    yield at_most(f"landed -> readable, p50 of {len(seconds)}, --interval {INTERVAL}", float(p50), 1, " s")
    yield at_most(f"landed -> readable, p95 of {len(seconds)}, --interval {INTERVAL}", float(p95), 2, " s")
    yield Figure("landed -> readable, worst", f"{max(seconds):.2f} s")


def _latencies(place: Place, pictures: list[Path], stream: subprocess.Popen[str]) -> list[float]:
    """Seconds from landed to readable of each picture, in their order."""
    landed: dict[str, float] = {}
    readable: dict[str, float] = {}
    read: set[Path] = set()
    pauses = random.Random(0)
    waiting = iter(pictures)
    next_landing = time.monotonic()
    while len(readable) < len(pictures) and stream.poll() is None:
        now = time.monotonic()
        if now >= next_landing and (picture := next(waiting, None)):
            target = place.source / picture.name
            landed[str(target)] = time.monotonic()
            os.rename(picture, target)
            next_landing = now + pauses.uniform(*_PAUSE)
        for file in set(place.output.glob("features/date=*/2*.parquet")) - read:
            paths = pq.read_table(file).column("path").to_pylist()
            read.add(file)
            readable.update(dict.fromkeys(paths, time.monotonic()))
        time.sleep(0.01)
    return [readable[path] - landed[path] for path in landed]


if __name__ == "__main__":
    print_figures(measure())
