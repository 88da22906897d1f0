"""Exporting a table of many small files.

    python -m benchmarks.export [ROWS [FILES [ROUNDS]]]

The output is as a stream leaves it after years: a million rows of 100 features in 10,000 files. Time and CPU are those
of the whole program, the start of Spark included. Memory is the most that all of its processes had together, shared
pages counted once in proportion (PSS).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support.common import CORES, ROUNDS, Figure, Measured, costs, print_figures, run_measured
from benchmarks.support.tables import write_manifest, write_output

_ROWS = 1_000_000
_FILES = 10_000


def measure(rows: int = _ROWS, files: int = _FILES, rounds: int = ROUNDS) -> Iterator[Figure]:
    """First exports, the next ones after a day has changed, and CSV."""
    each, begun = rows // files, files - rounds
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        write_output(Path(folder) / "out", begun * each, begun)
        firsts, nexts, as_csv = [], [], []
        for number in range(begun, files):
            firsts.append(_export(folder))
            write_manifest(Path(folder) / "out", number, each)  # on a day that is there
            nexts.append(_export(folder))
            as_csv.append(_export(folder, "--format", "csv"))
            shutil.rmtree(Path(folder) / "to")
    yield from costs(f"export of {begun * each:,} rows in {begun:,} files", firsts)
    yield from costs("export after one day has changed", nexts)
    yield from costs("export as CSV", as_csv)


def _export(folder: str, *more: str) -> Measured:
    places = ["--output", f"{folder}/out", "--to", f"{folder}/to", "--log-folder", f"{folder}/log"]
    return run_measured("streaming", ["export", *places, "--master", f"local[{CORES},4]", *more])


if __name__ == "__main__":
    print_figures(measure(*map(int, sys.argv[1:])))
