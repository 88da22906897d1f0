"""Exporting a table of many small files.

    python -m benchmarks.export [ROWS [FILES]]

The output is as a stream leaves it after years: a million rows of 100 features in 10,000 files. Time and CPU are those
of the whole program, the start of Spark included. Memory is the most that all of its processes had together, shared
pages counted once in proportion (PSS).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support.common import CORES, Figure, print_figures, run_measured
from benchmarks.support.tables import write_manifest, write_output

_ROWS = 1_000_000
_FILES = 10_000


def measure(rows: int = _ROWS, files: int = _FILES) -> Iterator[Figure]:
    """The first export, the next one after a day has changed, and CSV."""
    each = rows // files
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        write_output(Path(folder) / "out", rows - each, files - 1)
        yield from _export(folder, f"export of {rows - each:,} rows in {files - 1:,} files")
        write_manifest(Path(folder) / "out", files - 1, each)  # on a day that is there
        yield from _export(folder, "export after one day has changed")
        yield from _export(folder, f"export of {rows:,} rows as CSV", "--format", "csv")


def _export(folder: str, what: str, *more: str) -> Iterator[Figure]:
    places = ["--output", f"{folder}/out", "--to", f"{folder}/to", "--log-folder", f"{folder}/log"]
    yield from run_measured("streaming", ["export", *places, "--master", f"local[{CORES},4]", *more]).figures(what)


if __name__ == "__main__":
    print_figures(measure(*map(int, sys.argv[1:])))
