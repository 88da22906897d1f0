"""Applies a function to many files as a Spark job. No worker holds more than one file and its successor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict

import pyarrow as pa
from pyspark.accumulators import Accumulator
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from conf.aws.connection import S3Connection
from streaming.forget.files import File, Found, Work, visit
from streaming.storage.folder import Folder
from streaming.storage.locations import is_on_s3, open_folder

_TASKS_PER_SLOT = 8

_FILES = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("place", "root", "name")])
_FOUND = pa.schema(
    [
        *_FILES,
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("identities", pa.list_(pa.binary()), nullable=False),
        pa.field("hits", pa.list_(pa.binary()), nullable=False),
    ]
)


def visit_by_spark(
    spark: SparkSession, files: Sequence[File], work: Work, connection: S3Connection, done: Accumulator[int]
) -> list[Found]:
    """The findings of `work` in `files`, at least one, in their order; `done` counts the files."""
    table = pa.table({name: [getattr(file, name) for file in files] for name in _FILES.names}, schema=_FILES)
    tasks = spark.sparkContext.defaultParallelism * _TASKS_PER_SLOT
    # Each chunk becomes a Spark partition.
    frame = spark.createDataFrame(pa.Table.from_batches(table.to_batches(-(-len(files) // tasks))))
    if any(is_on_s3(file.root) for file in files):
        connection = connection.resolved()  # the environment of a worker may be another
    found = frame.mapInArrow(_for_each(work, connection, done), from_arrow_schema(_FOUND)).toArrow()
    return [
        Found(File(row["place"], row["root"], row["name"]), row["rows"], row["size"], row["identities"], row["hits"])
        for row in found.to_pylist()
    ]


def _for_each(
    work: Work, connection: S3Connection, done: Accumulator[int]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        folders: dict[str, Folder] = {}
        for row in (row for batch in batches for row in batch.to_pylist()):
            file = File(**row)
            found = visit(work, folders.setdefault(file.root, open_folder(file.root, connection)), file)
            done.add(1)
            if found:
                counted = {"rows": found.rows, "size": found.size}
                told = {**asdict(file), **counted, "identities": found.identities, "hits": found.hits}
                yield pa.RecordBatch.from_pylist([told], schema=_FOUND)

    return run
