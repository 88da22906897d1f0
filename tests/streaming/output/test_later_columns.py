"""A table with files of both formats, as docs/formats.md says that each reader copes with it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from streaming.features.schema import FEATURES, with_all_columns
from streaming.output.tables import feature_rows
from streaming.storage.parquet import as_parquet
from tests.support.outcomes import named, result_of
from tests.support.pages import block
from tests.support.streams import PROJECT

_LATER = [field.name for field in FEATURES if field.nullable]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The older file has the picture x, the newer one y."""
    rows = feature_rows(result_of("m", named("xy"), {}))
    rows = rows.set_column(rows.schema.get_field_index("sha256"), FEATURES.field("sha256"), pa.array(["0", "1"]))
    table = tmp_path / "table" / "features"
    for day, part in (("2026-01-30", rows.slice(0, 1).drop_columns(_LATER)), ("2026-01-31", rows.slice(1))):
        (table / f"date={day}").mkdir(parents=True)
        (table / f"date={day}" / "2.parquet").write_bytes(as_parquet(part))
    return table


def test_pyarrow_and_pandas_are_given_the_newest_schema(table: Path) -> None:
    """Without it they see the columns of the first file alone."""
    assert "sha256" not in ds.dataset(table, format="parquet", partitioning="hive").schema.names
    newest = pq.read_schema(max(table.glob("date=*/*")))
    schema = newest.append(pa.field("date", pa.string()))
    rows = ds.dataset(table, partitioning="hive", schema=schema).to_table()
    assert rows.column("sha256").to_pylist() == [None, "1"]
    assert rows.column("date").to_pylist() == ["2026-01-30", "2026-01-31"]
    frame: pd.DataFrame = rows.to_pandas()
    assert list(frame["path"]) == [picture.path for picture in named("xy")]


def test_duckdb_unites_them_by_name(table: Path) -> None:
    with duckdb.connect() as database:
        query = f"SELECT sha256 FROM read_parquet('{table}/**/*.parquet', union_by_name=true) ORDER BY date"
        assert database.execute(query).fetchall() == [(None,), ("1",)]


def test_the_query_of_the_page_of_the_classifier_finds_its_columns(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predictions of rows of the earlier format are null."""
    query = block((PROJECT / "docs" / "classifier.md").read_text(encoding="utf-8"), "sql", "reconstruction_error")
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as database:
        found = database.execute(query.replace("> 506", "> 0")).fetchall()
    assert sorted(row[:3] for row in found) == [(picture.path, None, None) for picture in named("xy")]


def test_spark_merges_them(table: Path, spark: SparkSession) -> None:
    frame = spark.read.option("mergeSchema", value=True).parquet(str(table)).orderBy("date")
    assert [row["sha256"] for row in frame.collect()] == [None, "1"]
    assert set(frame.columns) == {*FEATURES.names, "date"}


def test_the_project_itself_takes_what_is_missing_for_null(table: Path) -> None:
    """And refuses a file without the columns that may not be null."""
    old = pq.ParquetFile(next(table.glob("date=2026-01-30/*"))).read()
    rows = with_all_columns(old, FEATURES)
    assert rows.schema.equals(FEATURES)
    assert {name: rows.column(name).null_count for name in _LATER} == dict.fromkeys(_LATER, 1)
    with pytest.raises(KeyError):
        with_all_columns(old.drop_columns(["path"]), FEATURES)
