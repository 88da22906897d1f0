"""Measures the time that a micro-batch of 1, 100 and 1,000 pictures spends outside featurizing.

    python -m benchmarks.overhead

It is the time from one commit to the next, less what the bare loop takes for as many pictures on all cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.support.bare import bare_rate
from benchmarks.support.common import Figure, arguments, link_pictures, print_figures, run_program, wait_for_quiet
from tests.support.samples import write_samples
from tests.support.scratch import new_place

_SIZES = (1, 100, 1000)
_MICRO_BATCHES = 10


def measure() -> Iterator[Figure]:
    """Seconds per micro-batch of each size, beside the bare loop's."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = write_samples(Path(folder), 1000, broken=0).pictures
        wait_for_quiet()
        rate = bare_rate(pictures, len(pictures))
        for size in _SIZES:
            seconds = _seconds_per_micro_batch(pictures, size)
            outside = seconds - size / rate
            yield Figure(f"micro-batch of {size:,}, outside featurizing", f"{outside:.2f} of {seconds:.2f} s")


def _seconds_per_micro_batch(pictures: Sequence[Path], size: int) -> float:
    with new_place() as place:
        link_pictures(place.source, pictures, size * _MICRO_BATCHES)
        run_program("streaming", arguments(place, "replay", "--max-pictures", str(size)))
        commits = sorted(file.stat().st_mtime for file in place.output.glob("features/date=*/2*.parquet"))
    return median(after - before for before, after in pairwise(commits[1:]))


if __name__ == "__main__":
    print_figures(measure())
