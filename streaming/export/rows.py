"""Reads the rows of files of the table of features, and writes sorted rows into the files of a snapshot.

Both are done by the project's own storage, in this process and on Spark's workers alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf.aws.connection import S3Connection
from conf.errors import AlreadyExistsError, NotFoundError, OutputError
from streaming.export.formats import LAYOUTS, ROWS, Layout, OpenFile
from streaming.export.record import SnapshotFormat
from streaming.export.reprojection import COLUMNS, SnapshotModel
from streaming.features.schema import FEATURES, with_all_columns
from streaming.output.decision import FEATURES_REMEDY
from streaming.output.embeddings import read_embeddings
from streaming.storage.ahead import ahead, reads_at_once
from streaming.storage.damaged import naming
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from streaming.storage.parquet import rows_in

ROWS_PER_BATCH = 10_000
"""Of the tables that are written; Spark hands its rows over in as many."""

_EMBEDDINGS_AHEAD = 4 * 2**20  # bytes; to project a larger file's takes longer than to ask for it

SOURCES = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("embeddings", pa.string()),
        pa.field("embeddings_length", pa.int64(), nullable=False),
    ]
)
"""Files of the table: day (YYYY-MM-DD), name within the output, bytes; and the same of the file of their embeddings,
null and 0 if there is none, or none is needed."""


@dataclass(frozen=True)
class Target:
    """The snapshot to write; a value that is sent to the workers.

    Attributes:
        to: canonical path of the folder of snapshots.
        snapshot: id of the new one.
        format: of its files.
        file_bytes: their size.
        connection: how its writers reach S3.
        model: of all its rows; None leaves each in its own.
    """

    to: str
    snapshot: str
    format: SnapshotFormat
    file_bytes: int
    connection: S3Connection
    model: SnapshotModel | None = None

    @property
    def layout(self) -> Layout:
        """The arrangement of the rows in its files."""
        return LAYOUTS[self.format]


class Written(NamedTuple):
    """A file of the snapshot, as its writer reports it."""

    date: str
    name: str
    rows: int
    bytes: int


class Counts(NamedTuple):
    """The rows of a day that were read: how many are to be written, and how many are left out."""

    rows: int
    left_out: int


def read_sources(
    output: Folder, files: Iterable[Mapping[str, Any]], model: SnapshotModel | None
) -> Iterator[tuple[str, pa.Table]]:
    """The day and the rows, `ROWS`, of each of `files`, which are rows of `SOURCES`, in their order.

    Rows that cannot be put into the model are among them, and keep their own.

    Raises:
        OutputError: a file is damaged, or gone; the message names it.
    """
    for file, source in ahead(lambda file: _Source.read(output, file, model), files, reads_at_once(output.root)):
        rows = source.in_model(output, model)
        dates = pa.array([file["date"]] * len(rows), pa.string())
        yield file["date"], rows.append_column(ROWS.field("date"), dates)


@dataclass
class _Source:
    """A file of the table as it was read ahead, and that of its embeddings, which is not if it is large."""

    rows: pa.Table
    needs_embeddings: bool
    name: str
    data: bytes | None

    @classmethod
    def read(cls, output: Folder, file: Mapping[str, Any], model: SnapshotModel | None) -> _Source:
        try:
            rows, name = _rows_of(output.path(file["name"]), output.read(file["name"])), file["embeddings"]
        except NotFoundError as error:
            raise OutputError(
                f"{error}: it was deleted while the table was read, as by a lifecycle rule; nothing was published; "
                "export again"
            ) from error
        needed = model is not None and name is not None and not model.is_of_all(rows)
        data = None
        if needed and file["embeddings_length"] <= _EMBEDDINGS_AHEAD:
            with suppress(NotFoundError):
                data = output.read(name)
        return cls(rows, needed, name, data)

    def in_model(self, output: Folder, model: SnapshotModel | None) -> pa.Table:
        """The rows, in the model if that is possible; embeddings that were deleted meanwhile are none."""
        if model is None or not self.needs_embeddings:
            return self.rows
        try:
            data = self.data or output.read(self.name)
        except NotFoundError:
            return self.rows
        return model.apply(self.rows, read_embeddings(output.path(self.name), data, COLUMNS))


def _rows_of(path: str, data: bytes) -> pa.Table:
    """A file of the table as `FEATURES`."""
    with naming(path, FEATURES_REMEDY):
        return with_all_columns(rows_in(data), FEATURES)


def write_rows(target: Target, partition: int, tables: Iterable[pa.Table]) -> Iterator[Written]:
    """Write tables of sorted rows, `ROWS`, one file after another; `partition` tells their names from those of others.

    The same rows give the same files in each attempt.
    """
    writer = _Writer(target, partition)
    runs = (run for table in tables for run in _runs(table, target.layout.apart))
    for apart, of_one in groupby(runs, key=itemgetter(0)):
        yield from writer.write(apart, (run[1] for run in of_one))


class _Writer:
    """The files of one partition."""

    def __init__(self, target: Target, partition: int) -> None:
        self._target = target
        self._to = open_folder(target.to, target.connection)
        self._partition = partition
        self._files = 0

    def write(self, apart: dict[str, str], tables: Iterable[pa.Table]) -> Iterator[Written]:
        """Write rows that have the same values in the columns `apart`, in as many files as their size needs."""
        file: OpenFile | None = None
        for table in tables:
            file = file or self._target.layout.open(self._target.file_bytes)
            file.write(table)
            if file.size >= self._target.file_bytes:
                yield self._create(apart, file)
                file = None
        if file:
            yield self._create(apart, file)

    def _create(self, apart: dict[str, str], file: OpenFile) -> Written:
        name = self._target.layout.name(apart, f"{self._partition:05}-{self._files:03}")
        self._files += 1
        data, rows = file.close()
        # The sorted rows of a partition are the same in each attempt, and so are name and content.
        with suppress(AlreadyExistsError):
            self._to.create(f"{self._target.snapshot}/{name}", data)
        return Written(apart["date"], name, rows, len(data))


def _runs(table: pa.Table, apart: Sequence[str]) -> Iterator[tuple[dict[str, str], pa.Table]]:
    """Slices of a sorted table in which the columns `apart` have one value each, with these values."""
    columns = [table.column(name).combine_chunks() for name in apart]
    changes = reduce(pc.or_, (pc.not_equal(column[1:], column[:-1]) for column in columns))
    starts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(table)]
    for start, end in pairwise(starts):
        if end > start:
            values = {name: column[start].as_py() for name, column in zip(apart, columns, strict=True)}
            yield values, table.slice(start, end - start)
