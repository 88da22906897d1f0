"""Forgetting in a table of many small files.

    python -m benchmarks.forget

The output is as a stream leaves it after years: a million rows of 100 features in 10,000 files, and the record of their
pictures. 1,000 pictures that were taken at random, so that nearly as many files hold one, are forgotten by the verb as
a person calls it. Memory is the most that all of its processes had together, shared pages counted once in proportion
(PSS). The search is timed by a second run, which finds nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from benchmarks.support.common import CORES, ROUNDS, Figure, Measured, costs, print_figures, run_measured
from benchmarks.support.tables import path_of, write_output

_ROWS = 1_000_000
_FILES = 10_000
_FORGOTTEN = 1_000


def measure() -> Iterator[Figure]:
    """Forgetting, and searching again."""
    forgetting, searching = [], []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        output, listed = Path(folder) / "out", Path(folder) / "forget.txt"
        write_output(output, _ROWS, _FILES)
        numbers = np.random.default_rng(1).choice(_ROWS, (ROUNDS, _FORGOTTEN), replace=False)
        for of_round in numbers:
            listed.write_text("".join(f"{path_of(int(number))}\n" for number in of_round), encoding="utf-8")
            forgetting.append(_run(output, listed))
            searching.append(_run(output, listed))
        left = sum(ds.dataset(output / table, format="parquet").count_rows() for table in ("features", "quarantine"))
    if left != _ROWS - numbers.size:
        raise RuntimeError(f"{left} rows are left of {_ROWS}, of which {numbers.size} were forgotten")
    yield from costs(f"forgetting {_FORGOTTEN:,} of {_ROWS:,} rows in {_FILES:,} files", forgetting)
    yield from costs("searching them again, finding nothing", searching)


def _run(output: Path, listed: Path) -> Measured:
    log = output.with_name("log")
    arguments = ["forget", "--output", str(output), "--from-file", str(listed), "--log-folder", str(log)]
    return run_measured("streaming", [*arguments, "--master", f"local[{CORES},4]"])


if __name__ == "__main__":
    print_figures(measure())
