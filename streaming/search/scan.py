"""Reads the rows of a table in bounded batches, several files ahead, and finds single rows in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from conf.errors import NotFoundError, OutputError
from streaming.features.schema import FEATURES
from streaming.output.decision import FEATURES_TABLE
from streaming.output.known import manifests_with
from streaming.output.manifests import table_file
from streaming.search.table import SearchTable
from streaming.storage.ahead import ahead
from streaming.storage.locations import is_on_s3
from streaming.storage.parquet import open_rows

FILE = "file"
"""The column of a batch that has the place of each row's file among those of the table."""

_ROWS_PER_BATCH = 8192  # of 200 features, 13 MB as float64
_FILES_TOGETHER = 32
_AHEAD = 4
_AHEAD_ON_S3 = 16
_LARGE_AHEAD_ON_S3 = 2  # an object is read as a whole, and those of a snapshot are large
_REMEDY = "restore it from a copy; deleting it loses its rows"  # a file of features, or of a snapshot

Found = TypeVar("Found")


def scan(table: SearchTable, columns: Sequence[str], look: Callable[[pa.RecordBatch], Found]) -> Iterator[Found]:
    """The answers of `look` to batches of rows, in the order of the table.

    Small files are read together, as to look into a hundred rows takes as long as into thousands.

    Args:
        table: to read.
        columns: of `schema.FEATURES`; those that a file does not have are null.
        look: called in threads, with a batch of these columns and `FILE`.

    Raises:
        OutputError: a file is damaged, or was deleted meanwhile.
    """

    def look_into(places: range) -> list[Found]:
        return [look(batch) for batch in _together(chain.from_iterable(_numbered(table, at, columns) for at in places))]

    at_once = _at_once(table)
    files = len(table.files)
    step = max(1, min(_FILES_TOGETHER, files // (4 * at_once)))
    for _, found in ahead(look_into, (range(at, min(at + step, files)) for at in range(0, files, step)), at_once):
        yield from found


def _at_once(table: SearchTable) -> int:
    if not is_on_s3(table.folder.root):
        return _AHEAD
    return _AHEAD_ON_S3 if table.is_output else _LARGE_AHEAD_ON_S3


def _numbered(table: SearchTable, at: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for batch in _batches(table, table.files[at], columns):
        yield batch.append_column(FILE, pa.array(np.full(len(batch), at, np.int32)))


def _together(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of at most twice `_ROWS_PER_BATCH` rows, made of smaller ones."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= _ROWS_PER_BATCH:
            yield pa.concat_batches(waiting)
            waiting.clear()
    if waiting:
        yield pa.concat_batches(waiting)


def _batches(table: SearchTable, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    try:
        with open_rows(table.folder, name, _REMEDY) as file:
            there = {*file.schema_arrow.names}
            present = [column for column in columns if column in there or not FEATURES.field(column).nullable]
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=present, use_threads=False):
                yield _completed(batch, columns)
    except NotFoundError as error:
        raise OutputError(f"{error}: it was deleted while the table was read; run this again") from error


def _completed(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """The batch with these columns, as `schema.FEATURES` has them, whoever has written the file."""
    fields = [FEATURES.field(name) for name in columns]
    there = {*batch.schema.names}
    arrays = [
        batch.column(field.name).cast(field.type) if field.name in there else pa.nulls(len(batch), field.type)
        for field in fields
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def matrix(features: pa.ListArray, k: int | None = None) -> NDArray[np.float32]:
    """The vectors of a column of features, (n, k) float32; without a copy where that is possible.

    Raises:
        OutputError: they are not of one length, or not of `k` numbers.
    """
    values = np.asarray(features.flatten())
    width = k if k is not None else (len(values) // len(features) if len(features) else 0)
    lengths = pc.list_value_length(features)
    if len(features) and not pc.all(pc.equal(lengths, width)).as_py():
        raise OutputError(
            f"rows of one model have features of {pc.min(lengths)} to {pc.max(lengths)} numbers, where {width} are "
            "expected: a file of the table was changed; restore it from a copy"
        )
    return values.reshape(len(features), width)


def rows_of(table: SearchTable, path: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a picture, as a dictionary of these columns; one at most, unless somebody has copied files.

    In an output, the record of known pictures tells in which file to look first.
    """

    def find(name: str) -> list[dict[str, Any]]:
        return _rows_in(table, name, path, columns)

    likely = map(find, _likely_files(table, path))
    others = (rows for _, rows in ahead(find, table.files, _at_once(table)))
    return next(filter(None, chain(likely, others)), [])


def _likely_files(table: SearchTable, path: str) -> list[str]:
    if not table.is_output:
        return []
    return [table_file(FEATURES_TABLE, manifest) for manifest in manifests_with(table.output, path)]


def _rows_in(table: SearchTable, name: str, path: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    with suppress(NotFoundError), open_rows(table.folder, name, _REMEDY) as file:
        groups = [group for group in range(file.metadata.num_row_groups) if _may_have(file, group, path)]
        for group in groups:
            paths = file.read_row_group(group, ["path"], use_threads=False).column("path")
            wanted = pc.equal(paths, path)
            if pc.any(wanted).as_py():
                there = [column for column in columns if column in file.schema_arrow.names]
                rows = file.read_row_group(group, there, use_threads=False).filter(wanted)
                return [{**dict.fromkeys(columns), **row} for row in rows.to_pylist()]
    return []


def _may_have(file: pq.ParquetFile, group: int, path: str) -> bool:
    """Whether the statistics of a row group leave it open that it has a path; they may be cut short, or missing."""
    described = file.metadata.row_group(group)
    column = next(
        (described.column(at) for at in range(described.num_columns) if described.column(at).path_in_schema == "path"),
        None,
    )
    statistics = column.statistics if column else None
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= path <= statistics.max)


def details(table: SearchTable, rows: Iterable[tuple[int, str]], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """These columns of single rows, by their paths; without rows that are gone.

    Args:
        table: to read.
        rows: the place of the file among those of the table, and the path, of each.
        columns: of `schema.FEATURES`.
    """
    wanted: dict[int, list[str]] = {}
    for at, path in rows:
        wanted.setdefault(at, []).append(path)
    found: dict[str, dict[str, Any]] = {}
    for at, paths in wanted.items():
        for batch in _batches(table, table.files[at], ("path", *columns)):
            chosen = batch.filter(pc.is_in(batch.column("path"), value_set=pa.array(paths, pa.string())))
            found |= {row["path"]: row for row in chosen.to_pylist()}
    return found
