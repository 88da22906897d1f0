"""Exporting a table of many small files into another model than its rows were ingested with.

    python -m benchmarks.export_model --rows 1000000 --files 10000

Each row has an embedding, and its 100 features are computed from that once more. The whole table takes 5 kB a row.
Time and memory are those of `benchmarks.export`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support.common import CORES, Figure, at_most, print_figures, run_measured
from benchmarks.support.tables import COMPONENTS, write_manifest, write_output
from streaming.features.backbone import backbone_id
from tests.support.models import promote_model

_ROWS = 1_000_000
_FILES = 10_000
_BACKBONE = b"a backbone"


def measure(rows: int = _ROWS, files: int = _FILES) -> Iterator[Figure]:
    """The first export, and the next one after a day has changed."""
    each, backbone = rows // files, backbone_id(_BACKBONE)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        promote_model(Path(folder) / "models", _BACKBONE, k=COMPONENTS, seed=0)
        write_output(Path(folder) / "out", rows - each, files - 1, backbone)
        yield from _export(folder, f"export of {rows - each:,} rows in {files - 1:,} files into another model")
        write_manifest(Path(folder) / "out", files - 1, each, backbone)  # on a day that is there
        yield from _export(folder, "export into another model after one day has changed")


def _export(folder: str, what: str) -> Iterator[Figure]:
    places = ["--output", f"{folder}/out", "--to", f"{folder}/to", "--models", f"{folder}/models"]
    places += ["--log-folder", f"{folder}/log"]
    run = run_measured("streaming", ["export", *places, "--master", f"local[{CORES},4]"])
    yield at_most(what, run.seconds, 150, " s")
    yield at_most(f"{what}: most memory of all processes", run.memory / 1e9, 2, " GB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Export into another model.")
    parser.add_argument("--rows", type=int, default=_ROWS)
    parser.add_argument("--files", type=int, default=_FILES)
    asked = parser.parse_args()
    print_figures(measure(asked.rows, asked.files))
