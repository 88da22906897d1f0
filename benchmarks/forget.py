"""Forgetting in a table of many small files.

    python -m benchmarks.forget

The output is as a stream leaves it after years: a million rows of 100 features in 10,000 files, and the record of their
pictures. 1,000 pictures that were taken at random, so that nearly as many files hold one, are forgotten by the verb as
a person calls it. Memory is the most that all of its processes had together, shared pages counted once in proportion
(PSS). The search is timed by a second run, which finds nothing.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from benchmarks.support.common import CORES, Figure, print_figures, run_measured
from benchmarks.support.tables import path_of, write_output

_ROWS = 1_000_000
_FILES = 10_000
_FORGOTTEN = 1_000


def measure() -> Iterator[Figure]:
    """Seconds, rows per second and peak memory."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        output, listed = Path(folder) / "out", Path(folder) / "forget.txt"
        write_output(output, _ROWS, _FILES)
        numbers = np.random.default_rng(1).choice(_ROWS, _FORGOTTEN, replace=False)
        listed.write_text("".join(f"{path_of(int(number))}\n" for number in numbers), encoding="utf-8")
        first, memory, said = _run(output, listed)
        again, _, _ = _run(output, listed)
        removed = json.loads(said)[0]["removed"]
        left = sum(ds.dataset(output / table, format="parquet").count_rows() for table in ("features", "quarantine"))
        shutil.rmtree(output)
    if left != _ROWS - _FORGOTTEN:
        raise RuntimeError(f"{left} rows are left of {_ROWS}, of which {_FORGOTTEN} were forgotten")
    yield Figure(f"forgetting {_FORGOTTEN:,} of {_ROWS:,} rows in {_FILES:,} files", f"{first:.1f} s")
    yield Figure("of these, rows of tables and record removed", f"{sum(removed.values()):,}")
    yield Figure("rows per second, start of Spark included", f"{_ROWS / first:,.0f}")
    yield Figure("searching again, finding nothing", f"{again:.1f} s, {_ROWS / again:,.0f} rows/s")
    yield Figure("memory of all processes, most", f"{memory / 2**20:,.0f} MiB")


def _run(output: Path, listed: Path) -> tuple[float, int, str]:
    """Seconds, peak bytes, and the receipts of a run."""
    log = output.with_name("log")
    arguments = ["forget", "--output", str(output), "--from-file", str(listed), "--json", "--log-folder", str(log)]
    run = run_measured("streaming", [*arguments, "--master", f"local[{CORES},4]"])
    return run.seconds, run.memory, run.said.splitlines()[-1]


if __name__ == "__main__":
    print_figures(measure())
