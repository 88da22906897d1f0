"""Reads many small files of the table of features and writes few large ones, sorted, as a Spark job.

It owns how the work is spread over the executors; it must not know which files are to be read, nor what becomes of the
new ones. Workers read and write by the project's own storage, as the stream does: Spark sorts what is in between.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import reduce
from itertools import groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark import StorageLevel, TaskContext
from pyspark.accumulators import Accumulator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - as everybody calls it
from pyspark.sql.pandas.types import from_arrow_schema

from conf.errors import AlreadyExistsError, OutputError
from conf.progress import Progress
from conf.s3 import S3Connection
from streaming.features.schema import FEATURES
from streaming.features.storage import is_on_s3, open_folder
from streaming.formats import LAYOUTS, ROWS, File
from streaming.snapshot_record import Format, SnapshotFile

_TASKS_PER_SLOT = 4
_FILES_PER_TASK = 250
_FILL = 0.8  # of a file's target size, so that few partitions need a second, small file
_READ_AHEAD = 4
_READ_AHEAD_ON_S3 = 16
_ROWS_PER_BATCH = 10_000

SOURCES = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
    ]
)
"""Files of the table: day (YYYY-MM-DD), name within the output, bytes."""


class _Written(NamedTuple):
    """A file of the snapshot, as a task reports it."""

    date: str
    name: str
    rows: int
    bytes: int


_WRITTEN = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Target:
    """What is to be written. It travels to the workers.

    Attributes:
        to: canonical path of the folder of snapshots.
        snapshot: id of the new one.
        format: of its files.
        file_bytes: their size.
        connection: how workers reach S3.
    """

    to: str
    snapshot: str
    format: Format
    file_bytes: int
    connection: S3Connection


@dataclass(frozen=True)
class Compacted:
    """What was done.

    Attributes:
        rows: read, by day.
        files: written, by day.
    """

    rows: dict[date, int]
    files: dict[date, list[SnapshotFile]]


def compact(spark: SparkSession, output: str, sources: pa.Table, target: Target, progress: Progress) -> Compacted:
    """Write the rows of `sources` into new files.

    Args:
        spark: the session.
        output: canonical path of the output.
        sources: `SOURCES`, at least one.
        target: what is to be written.
        progress: told of the files that are read, then of the rows that are written.
    """
    context = spark.sparkContext
    read, written = context.accumulator(0), context.accumulator(0)
    slots = context.defaultParallelism
    rows = _read(spark, output, _divide(sources, slots), target.connection, read).persist(StorageLevel.DISK_ONLY)
    with progress(len(sources), "files", read):
        counts = {date.fromisoformat(one["date"]): one["count"] for one in rows.groupBy("date").count().collect()}
    with progress(sum(counts.values()), "rows", written):
        found = (
            _sort(rows, sources, target)
            .mapInArrow(_write_with(target, written), from_arrow_schema(_WRITTEN))
            .toArrow()
            .to_pylist()
        )
    rows.unpersist()
    files: dict[date, list[SnapshotFile]] = {}
    for one in sorted(found, key=lambda one: one["name"]):
        file = SnapshotFile(name=one["name"], rows=one["rows"], bytes=one["bytes"])
        files.setdefault(date.fromisoformat(one["date"]), []).append(file)
    return Compacted(counts, files)


def _divide(sources: pa.Table, slots: int) -> pa.Table:
    """The files in chunks, of which each becomes a Spark partition."""
    size = max(1, min(_FILES_PER_TASK, len(sources) // (slots * _TASKS_PER_SLOT)))
    return pa.Table.from_batches(sources.combine_chunks().to_batches(size))


def _read(
    spark: SparkSession, output: str, sources: pa.Table, connection: S3Connection, done: Accumulator[int]
) -> DataFrame:
    ahead = _READ_AHEAD_ON_S3 if is_on_s3(output) else _READ_AHEAD

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        folder = open_folder(output, connection)
        with ThreadPoolExecutor(ahead) as pool:
            files = (file for batch in batches for file in batch.to_pylist())
            for file, data in _ahead(pool, folder.read, files, ahead):
                table = _rows_of(folder.path(file["name"]), data)
                dates = pa.array([file["date"]] * len(table), pa.string())
                yield from table.append_column(ROWS.field("date"), dates).to_batches(_ROWS_PER_BATCH)
                done.add(1)

    return spark.createDataFrame(sources).mapInArrow(read, from_arrow_schema(ROWS))


def _rows_of(path: str, data: bytes) -> pa.Table:
    """A file of the table as `FEATURES`."""
    try:
        return pq.read_table(pa.BufferReader(data)).select(FEATURES.names).cast(FEATURES)
    except MemoryError:
        raise
    except Exception as error:  # PyArrow has many kinds
        raise OutputError(f"{path} cannot be read: {error}; restore or delete it, and export again") from error


def _sort(rows: DataFrame, sources: pa.Table, target: Target) -> DataFrame:
    """The rows in ranges of about a file's size each, sorted. Only a day that is larger than a file is cut."""
    layout = LAYOUTS[target.format]
    first, *others = (*layout.apart, "path")
    file_bytes = target.file_bytes * _FILL / layout.growth
    days = sources.group_by("date").aggregate([("length", "sum")])
    large = days.filter(pc.greater(days.column("length_sum"), file_bytes)).column("date").to_pylist()
    cut = [F.when(F.col("date").isin(large), F.col(name)) for name in others]
    partitions = math.ceil(pc.sum(sources.column("length")).as_py() / file_bytes)
    return rows.repartitionByRange(partitions, first, *cut).sortWithinPartitions(first, *others)


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[str], bytes], files: Iterable[dict[str, str]], ahead: int
) -> Iterator[tuple[dict[str, str], bytes]]:
    """Each file with its content, while so many others are being read."""
    waiting: deque[tuple[dict[str, str], Future[bytes]]] = deque()
    for file in files:
        waiting.append((file, pool.submit(read, file["name"])))
        if len(waiting) > ahead:
            first, data = waiting.popleft()
            yield first, data.result()
    for file, data in waiting:
        yield file, data.result()


def _write_with(
    target: Target, done: Accumulator[int]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function that writes a sorted partition, one file after another, and tells which."""

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        assert context is not None
        writer = _Writer(target, context.partitionId())
        tables = (pa.Table.from_batches([batch]).select(ROWS.names).cast(ROWS) for batch in batches)
        runs = (run for table in tables for run in _runs(table, writer.layout.apart))
        for apart, of_one in groupby(runs, key=itemgetter(0)):
            for written in writer.write(apart, (run[1] for run in of_one)):
                yield pa.RecordBatch.from_pylist([written._asdict()], schema=_WRITTEN)
                done.add(written.rows)

    return write


class _Writer:
    """The files of one partition."""

    def __init__(self, target: Target, partition: int) -> None:
        self.layout = LAYOUTS[target.format]
        self._target = target
        self._to = open_folder(target.to, target.connection)
        self._partition = partition
        self._files = 0

    def write(self, apart: dict[str, str], tables: Iterable[pa.Table]) -> Iterator[_Written]:
        """Write the rows that belong into the same files."""
        file: File | None = None
        for table in tables:
            file = file or self.layout.open(self._target.file_bytes)
            file.write(table)
            if file.size >= self._target.file_bytes:
                yield self._create(apart, file)
                file = None
        if file:
            yield self._create(apart, file)

    def _create(self, apart: dict[str, str], file: File) -> _Written:
        name = self.layout.name(apart, f"{self._partition:05}-{self._files:03}")
        self._files += 1
        data, rows = file.close()
        # The sorted rows of a partition are the same in each attempt, and so are name and content.
        with suppress(AlreadyExistsError):
            self._to.create(f"{self._target.snapshot}/{name}", data)
        return _Written(apart["date"], name, rows, len(data))


def _runs(table: pa.Table, apart: Sequence[str]) -> Iterator[tuple[dict[str, str], pa.Table]]:
    """Slices of a sorted table in which the columns `apart` have one value each, with these values."""
    columns = [table.column(name).combine_chunks() for name in apart]
    changes = reduce(pc.or_, (pc.not_equal(column[1:], column[:-1]) for column in columns))
    starts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(table)]
    for start, end in pairwise(starts):
        if end > start:
            values = {name: column[start].as_py() for name, column in zip(apart, columns, strict=True)}
            yield values, table.slice(start, end - start)
