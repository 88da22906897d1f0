"""Exporting a table of many small files into another model than its rows were ingested with.

    python -m benchmarks.export_model [ROWS [FILES [ROUNDS]]]

Each row has an embedding, and its 100 features are computed from that once more. The whole table takes 5 kB a row.
Time and memory are those of `benchmarks.export`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support.common import CORES, ROUNDS, Figure, Measured, costs, print_figures, run_measured
from benchmarks.support.tables import COMPONENTS, write_manifest, write_output
from streaming.features.backbone import backbone_id
from tests.support.models import promote_model

_ROWS = 1_000_000
_FILES = 10_000
_BACKBONE = b"a backbone"


def measure(rows: int = _ROWS, files: int = _FILES, rounds: int = ROUNDS) -> Iterator[Figure]:
    """First exports, and the next ones after a day has changed."""
    each, begun, backbone = rows // files, files - rounds, backbone_id(_BACKBONE)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        promote_model(Path(folder) / "models", _BACKBONE, k=COMPONENTS, seed=0)
        write_output(Path(folder) / "out", begun * each, begun, backbone)
        firsts, nexts = [], []
        for number in range(begun, files):
            firsts.append(_export(folder))
            write_manifest(Path(folder) / "out", number, each, backbone)  # on a day that is there
            nexts.append(_export(folder))
            shutil.rmtree(Path(folder) / "to")
    yield from costs(f"export of {begun * each:,} rows in {begun:,} files into another model", firsts, 150, 2)
    yield from costs("export into another model after one day has changed", nexts)


def _export(folder: str) -> Measured:
    places = ["--output", f"{folder}/out", "--to", f"{folder}/to", "--models", f"{folder}/models"]
    places += ["--log-folder", f"{folder}/log"]
    return run_measured("streaming", ["export", *places, "--master", f"local[{CORES},4]"])


if __name__ == "__main__":
    print_figures(measure(*map(int, sys.argv[1:])))
