"""Publishes the outcome of each manifest as plain Parquet, exactly once.

Each manifest has one file in each of the tables. The features file is created if absent, and decides the manifest: see
`decision`, and `embeddings` for those of its rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.errors import AlreadyExistsError, NotFoundError, OutputError
from streaming.features.schema import EMBEDDINGS, FEATURES, QUARANTINE, label_of, with_all_columns
from streaming.output.batch_report import BatchReport
from streaming.output.decision import FEATURES_REMEDY, FEATURES_TABLE, QUARANTINE_TABLE, Decision, decide
from streaming.output.embeddings import EMBEDDINGS_TABLE, publish_staged, stage
from streaming.output.manifests import manifest_ids, table_file
from streaming.storage.ahead import ahead, reads_at_once
from streaming.storage.folder import Folder
from streaming.storage.parquet import as_parquet, count_values, parquet_files, read_rows

_FILES_LOOKED_INTO = 50
_DAYS_AT_FIRST = 2
_DAYS = 31
_EMBEDDING = EMBEDDINGS.field("embedding")
_TABLES = {FEATURES_TABLE: FEATURES, QUARANTINE_TABLE: QUARANTINE}

EMPTY = "empty"
"""In place of a manifest in the name of a file without rows."""


@dataclass(frozen=True)
class Result:
    """The outcome of the pictures of one manifest.

    Attributes:
        outcomes: `schema.OUTCOMES`, one row per picture.
        backbone: the `backbone.backbone_id` of the embeddings in the outcomes.
        processed_at: the time of the micro-batch, the same if Spark repeats it.
        report: of the micro-batch; it stands in the footer of the features file.
    """

    outcomes: pa.Table
    backbone: str
    processed_at: datetime
    report: BatchReport


class Tables:
    """The tables of an output, in hive layout: `OUTPUT/features/date=2026-01-31/<manifest>.parquet`.

    Args:
        output: has the tables.
        with_embeddings: whether the table of embeddings is one of them; otherwise results must not have any.
    """

    def __init__(self, output: Folder, *, with_embeddings: bool = False) -> None:
        self._output = output
        self._tables = dict(_TABLES, **{EMBEDDINGS_TABLE: EMBEDDINGS} if with_embeddings else {})

    def prepare(self) -> None:
        """Create a file without rows in each table that has no file, so that every reader finds the schema."""
        with ThreadPoolExecutor(len(self._tables)) as threads:
            list(threads.map(self._prepare_table, self._tables))

    def _prepare_table(self, table: str) -> None:
        if next(self._output.names(table), None) is None:
            with suppress(AlreadyExistsError):  # another start, at the same moment
                today, empty = f"date={datetime.now(UTC):%Y-%m-%d}", as_parquet(self._tables[table].empty_table())
                self._output.create(f"{table}/{today}/{EMPTY}.parquet", empty)

    def latest_model(self) -> str | None:
        """The model of the latest rows; None if there are none."""
        for name in latest_files(self._output, datetime.now(UTC)):
            column = read_rows(self._output, name, ["model_version"], FEATURES_REMEDY).column(0)
            if len(column):
                return str(column[-1].as_py())
        return None

    def latest_errors(self, version: str, count: int) -> NDArray[np.float32]:
        """(n,), reconstruction errors of the latest rows, the latest last, as long as they are of this model.

        They are of as many files as have `count`, or of the latest fifty.
        """
        found: list[NDArray[np.float32]] = []
        for name in islice(latest_files(self._output, datetime.now(UTC)), _FILES_LOOKED_INTO):
            with suppress(NotFoundError, OutputError, KeyError):  # deleted meanwhile, damaged, or another program's
                rows = read_rows(self._output, name, ["model_version", "reconstruction_error"], FEATURES_REMEDY)
                of_model = rows.filter(pc.equal(rows.column("model_version"), version))
                found.insert(0, of_model.column("reconstruction_error").drop_null().to_numpy())
                if len(rows) > len(of_model):
                    break
            if sum(map(len, found)) >= count:
                break
        return np.concatenate([np.empty(0, np.float32), *found])

    def commit_nothing(self, manifest: str) -> bool:
        """Publish, without a report, that a manifest lists nothing; False if another process has published a result."""
        return decide(self._output, manifest, FEATURES.empty_table(), Decision.of(QUARANTINE.empty_table()), {})

    def commit(self, manifest: str, result: Result) -> bool:
        """Publish a result; False if another process did so first, whose result stands."""
        staged = stage(self._output, manifest, embedding_rows(result))
        decision = Decision.of(quarantine_rows(result), staged.name if staged else None)
        if not decide(self._output, manifest, feature_rows(result), decision, result.report.as_footer()):
            publish_staged(self._output, manifest)
            return False
        if staged:
            staged.publish(self._output)
        return True


def rows_by_model(output: Folder) -> Counter[str]:
    """The number of rows of features of each model.

    Raises:
        OutputError: a file is damaged; the message names it.
    """
    counts: Counter[str] = Counter()

    def count(name: str) -> Counter[str]:
        return count_values(output, name, "model_version", FEATURES_REMEDY)

    for _, found in ahead(count, parquet_files(output, FEATURES_TABLE), reads_at_once(output.root)):
        counts.update(found)
    return counts


def latest_files(output: Folder, now: datetime, table: str = FEATURES_TABLE) -> Iterator[str]:
    """The files of a table, the latest first.

    A table may cover years: only the days that are needed are listed, unless nothing was added in a month.
    """

    def list_day(day: date) -> list[str]:
        return sorted(parquet_files(output, f"{table}/date={day}"), reverse=True)

    tomorrow = now.date() + timedelta(days=1)  # a clock may have been set back
    days = [tomorrow - timedelta(days=back) for back in range(_DAYS)]
    for day in days[:_DAYS_AT_FIRST]:
        yield from list_day(day)
    for _, names in ahead(list_day, days[_DAYS_AT_FIRST:], reads_at_once(output.root)):
        yield from names
    older, later = f"{table}/date={days[-1]}", f"{table}/date={tomorrow + timedelta(days=1)}"
    days_of_table = (name for name in parquet_files(output, table) if name.startswith(f"{table}/date="))
    others = (name for name in days_of_table if name < older or name >= later)
    yield from sorted(others, reverse=True)  # those of the future, too, of a clock that was ahead by days


def unfinished(output: Folder) -> list[str]:
    """The manifests in the log that are not decided yet, oldest first."""
    return _in_log(output, decided=False)


def finished(output: Folder) -> list[str]:
    """The manifests in the log that are decided, oldest first."""
    return _in_log(output, decided=True)


def _in_log(output: Folder, *, decided: bool) -> list[str]:
    log = manifest_ids(output)
    days = {table_file(FEATURES_TABLE, manifest).rpartition("/")[0] for manifest in log}
    done = {name for day in days for name in output.names(day)}
    return [manifest for manifest in log if (table_file(FEATURES_TABLE, manifest) in done) == decided]


def feature_rows(result: Result) -> pa.Table:
    """The rows of a result for the table of features, `schema.FEATURES`."""
    outcomes = result.outcomes.drop_columns("embedding")
    accepted = outcomes.filter(pc.is_null(outcomes.column("reason")))
    labels = pa.array([label_of(path) for path in accepted.column("path").to_pylist()], pa.string())
    return _stamped(accepted.append_column("label", labels), result, FEATURES)


def embedding_rows(result: Result) -> pa.Table:
    """The rows of a result for the table of embeddings, `schema.EMBEDDINGS`; none if embeddings are not kept."""
    outcomes = result.outcomes.select(["path", "embedding"])
    embedded = pc.and_(pc.is_null(result.outcomes.column("reason")), pc.is_valid(outcomes.column("embedding")))
    rows = outcomes.filter(embedded)
    rows = rows.set_column(1, _EMBEDDING, _as_lists(rows.column("embedding").combine_chunks()))
    return _stamped(rows, result, EMBEDDINGS)


def _as_lists(embeddings: pa.BinaryArray) -> pa.ListArray:
    """The bytes of float32 as lists of float32, without a copy; none is null."""
    _, offsets, data = embeddings.buffers()
    ends = np.frombuffer(offsets, np.int32)[embeddings.offset :][: len(embeddings) + 1]
    numbers = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]].view(np.float32)
    places = pa.array((ends - ends[0]) // numbers.itemsize)
    return pa.ListArray.from_arrays(places, pa.array(numbers), type=_EMBEDDING.type)


def quarantine_rows(result: Result) -> pa.Table:
    """The rows of a result for the table of quarantine, `schema.QUARANTINE`."""
    outcomes = result.outcomes.drop_columns("embedding")
    rejected = outcomes.filter(pc.is_valid(outcomes.column("reason")))
    return _stamped(rejected, result, QUARANTINE)


def _stamped(rows: pa.Table, result: Result, schema: pa.Schema) -> pa.Table:
    stamps = {
        "model_version": result.report.model_version,
        "backbone": result.backbone,
        "processed_at": result.processed_at,
    }
    for name in stamps.keys() & {*schema.names}:
        rows = rows.append_column(name, pa.repeat(pa.scalar(stamps[name], schema.field(name).type), len(rows)))
    return with_all_columns(rows, schema)
