"""What an export of a million rows in 10,000 files takes: seconds, and memory.

    python -m benchmarks.export

The table is synthetic, and written by the application's own sink: 10 days of 1,000 manifests of 100 pictures each, in
no order of their paths. Time is that of the whole program, the start of Spark included. Peaks are the kernel's own
count of resident memory (VmHWM).
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.common import COMPONENTS, CORES, Figure, peak, print_figures, wait_for_quiet
from streaming.features.schema import OUTCOMES
from streaming.features.storage import open_folder
from streaming.features.stored import Folder
from streaming.sink import ParquetSink, Result
from tests.streams import start

_DAYS = 10
_MANIFESTS = 1_000  # a day
_PICTURES = 100  # a manifest
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def measure(days: int = _DAYS) -> Iterator[Figure]:
    """The first export, the next one after a day has changed, and CSV."""
    rows = days * _MANIFESTS * _PICTURES
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        with ProcessPoolExecutor(CORES) as pool:
            list(pool.map(partial(_write_day, f"{folder}/out"), range(days)))
        yield from _export(folder, f"export of {rows:,} rows in {days * _MANIFESTS:,} files", rows)
        _write_manifest(open_folder(f"{folder}/out"), 0, _MANIFESTS)
        yield from _export(folder, "export after one day has changed", _MANIFESTS * _PICTURES)
        yield from _export(folder, f"export of {rows:,} rows as CSV", rows, "--format", "csv")


def _write_day(output: str, day: int) -> None:
    folder = open_folder(output)
    for number in range(_MANIFESTS):
        _write_manifest(folder, day, number)


def _write_manifest(output: Folder, day: int, number: int) -> None:
    at = _FIRST + timedelta(days=day, minutes=number)
    random = np.random.default_rng((day, number))
    columns = {
        "path": [f"/pictures/camera-{one % 97:02}/{one:016x}.jpg" for one in random.integers(2**63, size=_PICTURES)],
        "length": random.integers(4_000, 6_000, size=_PICTURES),
        "modification_time": [at] * _PICTURES,
        "width": [100] * _PICTURES,
        "height": [100] * _PICTURES,
        "features": list(random.normal(size=(_PICTURES, COMPONENTS)).astype(np.float32)),
        "reconstruction_error": random.random(_PICTURES, dtype=np.float32),
    }
    nothing = [None] * _PICTURES
    outcomes = pa.table({name: columns.get(name, nothing) for name in OUTCOMES.names}, schema=OUTCOMES)
    ParquetSink(output).commit(f"{at:%Y%m%dT%H%M%S%fZ}-{number:08x}", Result(outcomes, "model", at))


def _export(folder: str, what: str, rows: int, *more: str) -> Iterator[Figure]:
    """Run one, and say how fast it wrote `rows`, and how much memory its processes took."""
    places = ["--output", f"{folder}/out", "--to", f"{folder}/to", "--log-folder", f"{folder}/log"]
    wait_for_quiet()
    started = time.monotonic()
    program = start("streaming", ["export", *places, "--master", f"local[{CORES},4]", *more])
    peaks: dict[str, float] = {}
    while program.poll() is None:
        _note_peaks(program, peaks)
        time.sleep(0.2)
    seconds = time.monotonic() - started
    said, _ = program.communicate()
    if program.returncode:
        raise RuntimeError(f"the export ended with {program.returncode}:\n{said}")
    yield Figure(what, f"{seconds:.1f} s, {rows / seconds:,.0f} rows/s")
    memory = ", ".join(f"{role} {size:.0f} MB" for role, size in peaks.items())
    yield Figure(f"{what}: peak resident memory", memory)


def _note_peaks(program: subprocess.Popen[str], peaks: dict[str, float]) -> None:
    """Raise `peaks`, by role, to those of the processes that there are."""
    with suppress(psutil.NoSuchProcess):  # it has just ended
        driver = psutil.Process(program.pid)
        for process in (driver, *driver.children(recursive=True)):
            role = "driver" if process == driver else "Java" if process.name() == "java" else "worker"
            with suppress(OSError, AssertionError):  # as above
                peaks[role] = max(peaks.get(role, 0), peak(process))


if __name__ == "__main__":
    print_figures(measure())
