"""Finds and removes rows of forgotten pictures in many files, as Spark jobs.

It owns how files are dealt to the executors, and how one file is exchanged for another; it must not know what the files
are for. No worker holds more than one file and its successor. Running it again finds what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
from pyspark.accumulators import Accumulator
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from conf.errors import AppError, ConflictError, NotFoundError, OutputError
from conf.s3 import S3Connection
from streaming.features.denylist import Denylist
from streaming.features.storage import is_on_s3, open_folder
from streaming.features.stored import Folder, identity_of
from streaming.rows import count_rows, forgotten_paths, without_forgotten

_TASKS_PER_SLOT = 8
_ATTEMPTS = 10


@dataclass(frozen=True)
class File:
    """A file that may hold rows.

    Attributes:
        place: what it is for, in one word.
        root: canonical path of its folder.
        name: in that folder.
    """

    place: str
    root: str
    name: str


@dataclass(frozen=True)
class Found:
    """What was found in a file.

    Attributes:
        file: which.
        rows: of forgotten pictures, or of all.
        size: in bytes.
        identities: of the forgotten pictures.
    """

    file: File
    rows: int
    size: int
    identities: Sequence[bytes] = ()


_FILES = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("place", "root", "name")])
_FOUND = pa.schema(
    [
        *_FILES,
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("identities", pa.list_(pa.binary()), nullable=False),
    ]
)
_Work = Callable[[Folder, File], Found | None]


def find(
    spark: SparkSession, files: Sequence[File], denylist: Denylist, connection: S3Connection, done: Accumulator[int]
) -> list[Found]:
    """Those of `files` that hold rows of forgotten pictures; `done` counts the files looked at."""

    def look(folder: Folder, file: File) -> Found | None:
        try:
            data = folder.read(file.name)
        except NotFoundError:  # the stream has folded or taken it in: what has come in its place honours the denylist
            return None
        paths = forgotten_paths(file.name, data, denylist)
        return Found(file, len(paths), len(data), sorted({*map(identity_of, paths)})) if paths else None

    return _run(spark, files, look, connection, done)


def erase(
    spark: SparkSession, files: Sequence[File], denylist: Denylist, connection: S3Connection, done: Accumulator[int]
) -> None:
    """Exchange each of `files` for one without the rows of forgotten pictures; `done` counts the files."""

    def exchange(folder: Folder, file: File) -> None:
        erase_in(folder, file.name, denylist)

    _run(spark, files, exchange, connection, done)


def measure(
    spark: SparkSession, files: Sequence[File], connection: S3Connection, done: Accumulator[int]
) -> list[Found]:
    """How many rows and bytes each of `files` has now; `done` counts the files."""

    def look(folder: Folder, file: File) -> Found | None:
        try:
            data = folder.read(file.name)
        except NotFoundError:  # deleted by a hand
            return None
        return Found(file, count_rows(file.name, data), len(data))

    return _run(spark, files, look, connection, done)


def erase_in(folder: Folder, name: str, denylist: Denylist) -> None:
    """Exchange one file for one without the rows of forgotten pictures, unless it is gone.

    Raises:
        ConflictError: others change it all the time.
    """
    for attempt in range(_ATTEMPTS):
        try:
            data, tag = folder.read_tagged(name)
            if (kept := without_forgotten(name, data, denylist)) is data:
                return
            drop_checksum(folder, name)
            folder.replace(name, kept, tag)
        except NotFoundError:
            return
        except ConflictError:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def drop_checksum(folder: Folder, name: str) -> None:
    """Delete what Hadoop keeps beside a local file that Spark wrote, and would call the new one damaged for."""
    if not is_on_s3(folder.root):
        parent, _, file = name.rpartition("/")
        folder.delete(f"{parent}/.{file}.crc".lstrip("/"))


def _run(
    spark: SparkSession, files: Sequence[File], work: _Work, connection: S3Connection, done: Accumulator[int]
) -> list[Found]:
    if not files:
        return []
    table = pa.table({name: [getattr(file, name) for file in files] for name in _FILES.names}, schema=_FILES)
    tasks = spark.sparkContext.defaultParallelism * _TASKS_PER_SLOT
    # Each chunk becomes a Spark partition.
    frame = spark.createDataFrame(pa.Table.from_batches(table.to_batches(-(-len(files) // tasks))))
    if any(is_on_s3(file.root) for file in files):
        connection = connection.resolved()  # the environment of a worker may be another
    found = frame.mapInArrow(_for_each(work, connection, done), from_arrow_schema(_FOUND)).toArrow()
    return [
        Found(File(row["place"], row["root"], row["name"]), row["rows"], row["size"], row["identities"])
        for row in found.to_pylist()
    ]


def _for_each(
    work: _Work, connection: S3Connection, done: Accumulator[int]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        folders: dict[str, Folder] = {}
        for row in (row for batch in batches for row in batch.to_pylist()):
            file = File(**row)
            folder = folders.setdefault(file.root, open_folder(file.root, connection))
            try:
                found = work(folder, file)
            except (AppError, MemoryError):
                raise
            except Exception as error:  # each format's reader has errors of its own
                raise OutputError(
                    f"{folder.path(file.name)} cannot be read: {error}; restore or delete it, and forget again"
                ) from error
            done.add(1)
            if found:
                told = {**asdict(file), "rows": found.rows, "size": found.size, "identities": found.identities}
                yield pa.RecordBatch.from_pylist([told], schema=_FOUND)

    return run
