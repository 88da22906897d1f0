"""Measures the memory of the stream's processes, with small pictures and with pictures at the limit of pixels.

    python -m benchmarks.memory

Peaks are the kernel's own count of resident memory (VmHWM), so nothing between two samples is missed. It counts in
each process what several share; PSS divides that, and is sampled.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.support.common import Figure, at_most, java_of, link_pictures, peak, print_figures, running, workers_of
from conf.settings import ImagingSettings
from tests.support.samples import write_samples
from tests.support.scratch import new_place
from tests.support.streams import Place

_PICTURES = 6000
_SIDE = math.isqrt(ImagingSettings().max_pixels)


def measure() -> Iterator[Figure]:
    """Small pictures, several micro-batches of them, then one large picture after another."""
    with new_place() as place:
        small = write_samples(place.root / "small", 500, broken=0).pictures
        large = _write_large(place.root / "arriving")
        link_pictures(place.source, small, _PICTURES)
        with running(place) as stream:
            pss = 0.0
            while _rows(place) < _PICTURES and stream.poll() is None:
                pss = max([pss, *(worker.memory_full_info().pss for worker in workers_of(stream))])
                time.sleep(0.5)
            yield at_most("worker, 100x100, peak resident", max(map(peak, workers_of(stream))), 250, " MB")
            yield Figure("worker, 100x100, PSS", _megabytes(pss))
            yield Figure("driver, Python, resident", _megabytes(psutil.Process(stream.pid).memory_info().rss))
            yield Figure("driver, Java, resident", _megabytes(java_of(stream).memory_info().rss))
            for name, picture in large.items():
                yield Figure(
                    f"worker, {_SIDE}x{_SIDE} {name}, peak resident", f"{_peak_at(place, stream, picture):.0f} MB"
                )


def _write_large(folder: Path) -> dict[str, Path]:
    """A picture of as many pixels as are allowed in each way in which they cost memory, by a name for it."""
    folder.mkdir()
    ramp = np.arange(_SIDE, dtype=np.uint16)
    colour = Image.fromarray(np.stack(np.broadcast_arrays(ramp, ramp[:, None], 0 * ramp), axis=-1).astype(np.uint8))
    with_alpha = colour.copy()
    with_alpha.putalpha(128)
    colour.save(folder / "baseline.jpg")
    colour.save(folder / "progressive.jpg", progressive=True, subsampling=0)
    with_alpha.save(folder / "alpha.png", compress_level=1)
    with_alpha.save(folder / "alpha.webp", method=0)
    return {
        "JPEG": folder / "baseline.jpg",
        "progressive JPEG": folder / "progressive.jpg",
        "PNG with alpha": folder / "alpha.png",
        "WebP with alpha": folder / "alpha.webp",
    }


def _peak_at(place: Place, stream: subprocess.Popen[str], picture: Path) -> float:
    """The peak of the worker that decodes `picture`, in MB."""
    committed = place.committed()
    for worker in workers_of(stream):
        Path(f"/proc/{worker.pid}/clear_refs").write_text("5")  # resets the peak
    picture.rename(place.source / picture.name)
    while place.committed() == committed and stream.poll() is None:
        time.sleep(0.1)
    assert str(place.source / picture.name) in place.rows().column("path").to_pylist()
    return max(map(peak, workers_of(stream)))


def _rows(place: Place) -> int:
    return sum(pq.read_metadata(file).num_rows for file in place.output.glob("features/date=*/2*.parquet"))


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


if __name__ == "__main__":
    print_figures(measure())
