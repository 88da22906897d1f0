"""The rows of a result: the same pictures in the tables of features and embeddings, with all their numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streaming.features.schema import FEATURE_COUNT
from streaming.output.tables import Tables, embedding_rows, feature_rows, rows_by_model
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet, parquet_files, read_rows
from tests.support.outcomes import named, result_of
from tests.support.small_table import commit_features

_NAMES = "abcdefgh"
_REJECTED = {"a": "corrupt", "d": "corrupt", "h": "corrupt"}


def test_every_number_of_an_embedding_is_kept() -> None:
    """Wherever rejected pictures stand among them, and however Arrow holds the rows."""
    result = result_of("manifest", named(_NAMES), _REJECTED)
    numbers = np.random.default_rng(0).standard_normal((len(_NAMES), FEATURE_COUNT), np.float32)
    given = [None if name in _REJECTED else row.tobytes() for name, row in zip(_NAMES, numbers, strict=True)]
    place = result.outcomes.schema.get_field_index("embedding")
    whole = result.outcomes.set_column(place, result.outcomes.schema.field(place), pa.array(given))
    parts = pa.concat_tables([whole.slice(0, 2), whole.slice(2, 1), whole.slice(3)])
    for outcomes in (whole, parts, parts.slice(1, 5)):
        accepted = outcomes.filter(pc.is_null(outcomes.column("reason")))
        paths = accepted.column("path").to_pylist()
        rows = embedding_rows(replace(result, outcomes=outcomes))
        assert rows.column("path").to_pylist() == paths
        assert feature_rows(replace(result, outcomes=outcomes)).column("path").to_pylist() == paths
        expected = [numbers[_NAMES.index(path[len("/in/")])] for path in paths]
        assert np.array_equal(np.array(rows.column("embedding").to_pylist(), np.float32), expected)


def test_a_result_of_no_picture_has_no_rows() -> None:
    result = result_of("manifest", named(_NAMES), _REJECTED)
    without_chunks = result.outcomes.schema.empty_table()
    for outcomes in (without_chunks, result.outcomes.slice(0, 0), result.outcomes.slice(0, 1)):
        assert len(embedding_rows(replace(result, outcomes=outcomes))) == 0
        assert len(feature_rows(replace(result, outcomes=outcomes))) == 0


def test_rows_are_counted_by_the_ends_of_files_where_these_tell(tmp_path: Path) -> None:
    """A file of a stream has rows of one model; one that somebody has merged from several is read."""
    output = open_folder(str(tmp_path))
    commit_features(output, 0, {"/in/a.jpg": [1.0], "/in/b.jpg": [2.0]}, model="one")
    commit_features(output, 1, {"/in/c.jpg": [1.0]}, model="two")
    commit_features(output, 2, {}, model="two")
    files = [*parquet_files(output, "features")]
    merged = pa.concat_tables([read_rows(output, name) for name in files])
    output.create("features/date=2026-01-01/merged.parquet", as_parquet(merged))
    assert rows_by_model(output) == {"one": 4, "two": 2}


def test_the_latest_errors_are_those_of_one_model(tmp_path: Path) -> None:
    """In the order of the table, back to another model's; a file that cannot be read is left out."""
    output = open_folder(str(tmp_path))
    for day, (model, found) in enumerate([("one", [1.0]), ("two", [2.0]), ("one", [3.0, 4.0]), ("one", [5.0, 6.0])]):
        commit_features(
            output, day, {f"/in/{day}-{error}.jpg": [1.0] for error in found}, model, reconstruction_error=found
        )
    tables = Tables(output)
    assert tables.latest_errors("one", 1000).tolist() == [3, 4, 5, 6]
    assert tables.latest_errors("one", 2).tolist() == [5, 6]
    assert tables.latest_errors("two", 1000).tolist() == []
    latest = max(tmp_path.glob("features/*/*.parquet"))
    latest.write_bytes(b"?")
    assert tables.latest_errors("one", 1000).tolist() == [3, 4]
