"""Compacts the table of features as a Spark job: its workers read and write, and Spark sorts the rows in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel, TaskContext
from pyspark.accumulators import Accumulator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the usual name
from pyspark.sql.pandas.types import from_arrow_schema

from conf.spark.progress import Progress
from streaming.export.formats import ROWS
from streaming.export.rows import ROWS_PER_BATCH, Counts, Target, Written, read_sources, write_rows
from streaming.storage.locations import is_on_s3, open_folder

_TASKS_PER_SLOT = 4
_FILES_PER_TASK = 250
_FILL = 0.8  # of a file's target size, so that few partitions need a second, small file

_WRITTEN = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)


def compact_by_spark(
    spark: SparkSession, output: str, sources: pa.Table, target: Target, progress: Progress
) -> tuple[dict[str, Counts], list[Written]]:
    """Write the rows of `sources` into new files; returns the numbers of rows read, by day, and the files.

    `sources` are `rows.SOURCES`, at least one. The progress is that of the files, and then that of the rows.
    """
    if is_on_s3(output) or is_on_s3(target.to):
        target = replace(target, connection=target.connection.resolved())  # a worker's environment may be another
    context = spark.sparkContext
    read, written = context.accumulator(0), context.accumulator(0)
    chunks = _divide(sources, context.defaultParallelism)
    rows = _read(spark, output, chunks, target, read).persist(StorageLevel.DISK_ONLY)
    is_wanted = F.col("model_version") == target.model.version if target.model else F.lit(True)
    with progress(len(sources), "files", lambda: read.value):
        grouped = rows.groupBy("date").agg(F.count_if(is_wanted), F.count_if(~is_wanted))
        counts = {day: Counts(wanted, left_out) for day, wanted, left_out in grouped.collect()}
    with progress(sum(one.rows for one in counts.values()), "rows", lambda: written.value):
        ordered = _sort(rows.filter(is_wanted), sources, target)
        found = ordered.mapInArrow(_write_with(target, written), from_arrow_schema(_WRITTEN))
        files = [Written(**one) for one in found.toArrow().to_pylist()]
    rows.unpersist()
    return counts, files


def _divide(sources: pa.Table, slots: int) -> pa.Table:
    """The files in chunks, each of which becomes a Spark partition."""
    size = max(1, min(_FILES_PER_TASK, len(sources) // (slots * _TASKS_PER_SLOT)))
    return pa.Table.from_batches(sources.combine_chunks().to_batches(size))


def _read(spark: SparkSession, output: str, sources: pa.Table, target: Target, done: Accumulator[int]) -> DataFrame:
    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        files = (file for batch in batches for file in batch.to_pylist())
        for _, rows in read_sources(open_folder(output, target.connection), files, target.model):
            yield from rows.to_batches(ROWS_PER_BATCH)
            done.add(1)

    return spark.createDataFrame(sources).mapInArrow(read, from_arrow_schema(ROWS))


def _sort(rows: DataFrame, sources: pa.Table, target: Target) -> DataFrame:
    """The sorted rows in ranges of about a file's size; only a day that is larger than a file is divided."""
    first, *others = target.layout.order
    file_bytes = target.file_bytes * _FILL / target.layout.growth
    days = sources.group_by("date").aggregate([("length", "sum")])
    large = days.filter(pc.greater(days.column("length_sum"), file_bytes)).column("date").to_pylist()
    cut = [F.when(F.col("date").isin(large), F.col(name)) for name in others]
    partitions = math.ceil(pc.sum(sources.column("length")).as_py() / file_bytes)
    return rows.repartitionByRange(partitions, first, *cut).sortWithinPartitions(first, *others)


def _write_with(
    target: Target, done: Accumulator[int]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function that writes a sorted partition, and returns the records of its files."""

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        assert context is not None
        tables = (pa.Table.from_batches([batch]).select(ROWS.names).cast(ROWS) for batch in batches)
        for written in write_rows(target, context.partitionId(), tables):
            yield pa.RecordBatch.from_pylist([written._asdict()], schema=_WRITTEN)
            done.add(written.rows)

    return write
