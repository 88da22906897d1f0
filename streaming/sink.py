"""Publishes the outcome of a manifest as plain Parquet, exactly once.

It owns the two tables and the rule of the commit mark: one file per table and manifest, created if absent, the
features file last; its existence says that the manifest is done. It must not know how outcomes are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf.errors import AlreadyExistsError
from streaming.batch_report import BatchReport
from streaming.features.parquet import as_parquet
from streaming.features.schema import FEATURES, QUARANTINE, label_of
from streaming.features.stored import Folder
from streaming.manifests import manifest_ids, table_file

FEATURES_TABLE = "features"
QUARANTINE_TABLE = "quarantine"
_DAYS = 31

EMPTY = "empty"
"""In place of a manifest in the name of a file without rows."""


@dataclass(frozen=True)
class Result:
    """What became of the pictures of one manifest.

    Attributes:
        outcomes: `schema.OUTCOMES`, one row per picture.
        processed_at: the time of the micro-batch, the same in a retry.
        report: of the micro-batch; it stands in the footer of the features file.
    """

    outcomes: pa.Table
    processed_at: datetime
    report: BatchReport


class Sink(Protocol):
    """Where results go; the seam for another table format."""

    def prepare(self) -> None:
        """Make the tables readable before they have a row."""

    def is_committed(self, manifest: str) -> bool:
        """Whether the result of a manifest is there."""

    def unfinished(self) -> list[str]:
        """The manifests in the log whose result is not there, oldest first."""

    def commit(self, manifest: str, result: Result) -> bool:
        """Publish a result; False if another process did so first, whose result stands."""


class ParquetSink:
    """A `Sink` of Parquet files in hive layout: `OUTPUT/features/date=2026-01-31/<manifest>.parquet`."""

    def __init__(self, output: Folder) -> None:
        self._output = output

    def prepare(self) -> None:
        """Give each table that has no file one without rows, so that every reader finds the schema."""
        today = f"date={datetime.now(UTC):%Y-%m-%d}"
        for table, schema in ((FEATURES_TABLE, FEATURES), (QUARANTINE_TABLE, QUARANTINE)):
            if next(self._output.names(table), None) is None:
                self._output.create(f"{table}/{today}/{EMPTY}.parquet", as_parquet(schema.empty_table()))

    def latest_model(self) -> str | None:
        """The model of the latest rows; None if there are none."""
        for name in latest_files(self._output, datetime.now(UTC)):
            column = pq.read_table(pa.BufferReader(self._output.read(name)), columns=["model_version"]).column(0)
            if len(column):
                return str(column[-1].as_py())
        return None

    def is_committed(self, manifest: str) -> bool:
        return self._output.exists(table_file(FEATURES_TABLE, manifest))

    def unfinished(self) -> list[str]:
        return unfinished(self._output)

    def commit(self, manifest: str, result: Result) -> bool:
        quarantine = quarantine_rows(result)
        if len(quarantine):
            self._create_or_replace(table_file(QUARANTINE_TABLE, manifest), as_parquet(quarantine))
        features = feature_rows(result).replace_schema_metadata(result.report.as_metadata())
        try:
            self._output.create(table_file(FEATURES_TABLE, manifest), as_parquet(features))
        except AlreadyExistsError:
            return False
        return True

    def _create_or_replace(self, name: str, data: bytes) -> None:
        """A quarantine file without its features file is what a killed attempt left; ours takes its place."""
        try:
            self._output.create(name, data)
        except AlreadyExistsError:
            _, tag = self._output.read_tagged(name)
            self._output.replace(name, data, tag)


def latest_files(output: Folder, now: datetime) -> Iterator[str]:
    """The files of the table of features, the latest first.

    A table is years old: only the days that are needed are listed, unless nothing was added in a month.
    """
    day = now.date() + timedelta(days=1)  # a clock may have been set back
    for _ in range(_DAYS):
        yield from sorted(output.names(f"{FEATURES_TABLE}/date={day}"), reverse=True)
        day -= timedelta(days=1)
    older = f"{FEATURES_TABLE}/date={day + timedelta(days=1)}"
    yield from sorted((name for name in output.names(FEATURES_TABLE) if name < older), reverse=True)


def unfinished(output: Folder) -> list[str]:
    """The manifests in the log that have no features file yet, oldest first."""
    log = manifest_ids(output)
    days = {table_file(FEATURES_TABLE, manifest).rpartition("/")[0] for manifest in log}
    done = {name for day in days for name in output.names(day)}
    return [manifest for manifest in log if table_file(FEATURES_TABLE, manifest) not in done]


def feature_rows(result: Result) -> pa.Table:
    """The rows of a result for the table of features, `schema.FEATURES`."""
    accepted = result.outcomes.filter(pc.is_null(result.outcomes.column("reason")))
    labels = pa.array([label_of(path) for path in accepted.column("path").to_pylist()], pa.string())
    return _stamped(accepted.append_column("label", labels), result, FEATURES)


def quarantine_rows(result: Result) -> pa.Table:
    """The rows of a result for the table of quarantine, `schema.QUARANTINE`."""
    rejected = result.outcomes.filter(pc.is_valid(result.outcomes.column("reason")))
    return _stamped(rejected, result, QUARANTINE)


def _stamped(rows: pa.Table, result: Result, schema: pa.Schema) -> pa.Table:
    stamps = {"model_version": result.report.model_version, "processed_at": result.processed_at}
    for name, value in stamps.items():
        rows = rows.append_column(name, pa.array([value] * len(rows), schema.field(name).type))
    return rows.select(schema.names).cast(schema)
