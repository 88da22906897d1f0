"""Finding similar pictures and duplicates in a table of many small files, and in a snapshot of it.

    python -m benchmarks.similar

The table is as a stream leaves it after years: a million rows of 200 features in 10,000 files. Its vectors are random,
so that none are near each other, and no pair is spared. Time is that of the whole program. Memory is the most that it
had, shared pages counted once in proportion (PSS). Duplicates are looked for among fewer rows; as all pairs are
compared, their time for a million is that of so many pairs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.support.common import CORES, ROUNDS, Figure, Measured, costs, print_figures, run_measured
from benchmarks.support.tables import path_of, write_output

_ROWS = 1_000_000
_FILES = 10_000
_COMPONENTS = 200
_COMPARED = 100_000
_FEW = 10_000


def measure(rows: int = _ROWS, files: int = _FILES, compared: int = _COMPARED) -> Iterator[Figure]:
    """Similar on a small table, in an output and in its snapshot; duplicates."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for count in (_FEW, compared):
            write_output(Path(folder) / f"{count}", count, count // 100, components=_COMPONENTS)
        yield from _similar(folder, f"{folder}/{_FEW}", f"similar among {_FEW:,} rows", 1.0)
        few, many = (_duplicates(folder, f"{folder}/{count}") for count in (_FEW, compared))
        yield from costs(f"duplicates among {compared:,} rows", many, gigabytes=1)
        difference = median(run.seconds for run in many) - median(run.seconds for run in few)
        whole = difference * rows**2 / (compared**2 - _FEW**2)
        yield Figure(f"duplicates among {rows:,} rows, by the time of a pair", f"{whole:,.0f} s")
        write_output(Path(folder) / "out", rows, files, components=_COMPONENTS)
        yield from _similar(folder, f"{folder}/out", f"similar among {rows:,} rows in {files:,} files", 8.0)
        places = ["--output", f"{folder}/out", "--to", f"{folder}/to", "--log-folder", f"{folder}/log"]
        run_measured("streaming", ["export", *places, "--master", f"local[{CORES},4]"])
        yield from _similar(folder, f"{folder}/to", f"similar among {rows:,} rows in one snapshot", 3.0)


def _similar(folder: str, table: str, what: str, most: float) -> Iterator[Figure]:
    words = ["similar", path_of(123), "--table", table, "--json", "--log-folder", f"{folder}/log"]
    runs = [run_measured("streaming", words) for _ in range(ROUNDS)]
    assert all(len(json.loads(run.said.splitlines()[-1])["matches"]) == 10 for run in runs)
    yield from costs(what, runs, most, 1)


def _duplicates(folder: str, table: str) -> list[Measured]:
    words = ["duplicates", "--table", table, "--json", "--log-folder", f"{folder}/log"]
    runs = [run_measured("streaming", words) for _ in range(ROUNDS)]
    assert all(json.loads(run.said.splitlines()[-1])["groups"] == [] for run in runs)
    return runs


if __name__ == "__main__":
    print_figures(measure())
