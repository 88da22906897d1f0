"""Makes a synthetic output like that of a stream after years of a trickle: many small files, and the record of them.

The files are written as the stream writes them, except that they are not synced to the disk.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streaming.features.schema import FEATURE_COUNT, OUTCOMES
from streaming.output import known
from streaming.output.batch_report import BatchReport
from streaming.output.decision import FEATURES_TABLE, QUARANTINE_TABLE
from streaming.output.embeddings import EMBEDDINGS_TABLE
from streaming.output.manifests import table_file
from streaming.output.tables import Result, embedding_rows, feature_rows, quarantine_rows
from streaming.storage.folder import identity_of
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet
from tests.support.streams import begin

COMPONENTS = 100
_FILES_PER_DAY = 100
_MANIFESTS_PER_RECORD = 2_500
_QUARANTINED_OF = 100  # one picture of so many
_START = datetime(2025, 1, 1, tzinfo=UTC)
_MODEL = "20250101T000000Z-00000000"


def path_of(number: int) -> str:
    """The path of a picture, from its number; 1,000 consecutive ones are in one folder."""
    return f"/pictures/camera-{number // 1000:05}/{number:08}.jpg"


def write_output(output: Path, rows: int, files: int, backbone: str = "", components: int = COMPONENTS) -> None:
    """Write `rows` rows of features and quarantine in `files` files of features, and the record of their pictures.

    With the id of a backbone, their embeddings, too.
    """
    begin(open_folder(str(output)))
    seen: list[tuple[str, list[str]]] = []
    for number in range(files):
        seen.append(write_manifest(output, number, rows // files, backbone, components))
        if len(seen) == _MANIFESTS_PER_RECORD or number == files - 1:
            _write(output / known.KNOWN_FOLDER / f"{seen[-1][0]}-00000000.parquet", _record(seen))
            seen.clear()


def write_manifest(
    output: Path, number: int, pictures: int, backbone: str = "", components: int = COMPONENTS
) -> tuple[str, list[str]]:
    """Write the files that the manifest of this number has in the tables; returns its id and the paths of its rows."""
    paths = [path_of(number * pictures + row) for row in range(pictures)]
    day, of_day = divmod(number, _FILES_PER_DAY)
    now = _START + timedelta(days=day, minutes=10 * of_day)
    manifest = f"{now:%Y%m%dT%H%M%S%fZ}-{sha256(paths[0].encode()).hexdigest()[:8]}"
    outcomes = _outcomes(paths, number * pictures, now, np.random.default_rng(number), components)
    if backbone:
        embeddings = np.random.default_rng(number).normal(size=(pictures, FEATURE_COUNT)).astype(np.float32)
        place, column = outcomes.schema.get_field_index("embedding"), OUTCOMES.field("embedding")
        outcomes = outcomes.set_column(place, column, pa.array([one.tobytes() for one in embeddings], column.type))
    result = Result(outcomes, backbone, now, BatchReport(manifest, pictures, Counter(), 0, 0, _MODEL, None))
    _write(output / table_file(FEATURES_TABLE, manifest), feature_rows(result))
    if len(rejected := quarantine_rows(result)):
        _write(output / table_file(QUARANTINE_TABLE, manifest), rejected)
    if len(embedded := embedding_rows(result)):
        file = output / table_file(EMBEDDINGS_TABLE, manifest)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(as_parquet(embedded))
    return manifest, paths


def _outcomes(paths: list[str], first: int, now: datetime, random: np.random.Generator, components: int) -> pa.Table:
    count = len(paths)
    rejected = [(first + row) % _QUARANTINED_OF == 0 for row in range(count)]
    values = random.normal(size=(count, components)).astype(np.float32)
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
        "sha256": [sha256(path.encode()).hexdigest() for path in paths],
    }
    nothing = [None] * count
    return pa.table({name: columns.get(name, nothing) for name in OUTCOMES.names}, schema=OUTCOMES)


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
