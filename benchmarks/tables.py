"""An output as a stream leaves it after years of a trickle: many small files, and the record of what was seen.

It owns the form of the synthetic output; it must not know what is measured on it. The files are written as the sink
and the fold would write them, but for the syncing of each to the disk.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streaming import known
from streaming.batch_report import BatchReport
from streaming.features.schema import OUTCOMES
from streaming.features.storage import open_folder
from streaming.features.stored import identity_of
from streaming.manifests import table_file
from streaming.sink import FEATURES_TABLE, QUARANTINE_TABLE, Result, feature_rows, quarantine_rows
from tests.streams import begin

COMPONENTS = 100
_FILES_PER_DAY = 100
_MANIFESTS_PER_RECORD = 2_500
_QUARANTINED_OF = 100  # one picture of so many
_START = datetime(2025, 1, 1, tzinfo=UTC)
_MODEL = "20250101T000000Z-00000000"


def path_of(number: int) -> str:
    """The path of a picture, from its number; 1,000 consecutive ones are in one folder."""
    return f"/pictures/camera-{number // 1000:05}/{number:08}.jpg"


def write_output(output: Path, rows: int, files: int) -> None:
    """Write `rows` rows of features and quarantine in `files` files of features, and the record of their pictures."""
    begin(open_folder(str(output)))
    seen: list[tuple[str, list[str]]] = []
    for number in range(files):
        seen.append(write_manifest(output, number, rows // files))
        if len(seen) == _MANIFESTS_PER_RECORD or number == files - 1:
            _write(output / known.FOLDER / f"{seen[-1][0]}-00000000.parquet", _record(seen))
            seen.clear()


def write_manifest(output: Path, number: int, pictures: int) -> tuple[str, list[str]]:
    """Write the files that the manifest of this number has in the tables; returns its id and the paths of its rows."""
    paths = [path_of(number * pictures + row) for row in range(pictures)]
    day, of_day = divmod(number, _FILES_PER_DAY)
    now = _START + timedelta(days=day, minutes=10 * of_day)
    manifest = f"{now:%Y%m%dT%H%M%S%fZ}-{sha256(paths[0].encode()).hexdigest()[:8]}"
    outcomes = _outcomes(paths, number * pictures, now, np.random.default_rng(number))
    result = Result(outcomes, now, BatchReport(manifest, pictures, Counter(), 0, 0, _MODEL, None))
    _write(output / table_file(FEATURES_TABLE, manifest), feature_rows(result))
    if len(rejected := quarantine_rows(result)):
        _write(output / table_file(QUARANTINE_TABLE, manifest), rejected)
    return manifest, paths


def _outcomes(paths: list[str], first: int, now: datetime, random: np.random.Generator) -> pa.Table:
    count = len(paths)
    rejected = [(first + row) % _QUARANTINED_OF == 0 for row in range(count)]
    values = random.normal(size=(count, COMPONENTS)).astype(np.float32)
    columns = {
        "path": paths,
        "length": [150_000] * count,
        "modification_time": [now] * count,
        "width": [None if bad else 640 for bad in rejected],
        "height": [None if bad else 480 for bad in rejected],
        "features": [None if bad else row for bad, row in zip(rejected, values, strict=True)],
        "reconstruction_error": [None if bad else 1.0 for bad in rejected],
        "reason": ["corrupt" if bad else None for bad in rejected],
        "detail": ["image file is truncated" if bad else None for bad in rejected],
        "sha256": ["0" * 64 if bad else None for bad in rejected],
    }
    return pa.table(columns, schema=OUTCOMES)


def _record(seen: list[tuple[str, list[str]]]) -> pa.Table:
    paths = [path for _, of_manifest in seen for path in of_manifest]
    columns = {
        "hash": [identity_of(path) for path in paths],
        "manifest": [manifest for manifest, of_manifest in seen for _ in of_manifest],
        "path": paths,
        "length": [150_000] * len(paths),
        "modification_time": [_START] * len(paths),
        "etag": [None] * len(paths),
    }
    return pa.table(columns, schema=known.SCHEMA)


def _write(file: Path, table: pa.Table) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, compression="zstd")
