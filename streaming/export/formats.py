"""The formats of a snapshot: turns rows of the table of features into the bytes of Parquet or CSV files.

A format defines columns, file names, and which rows share a file. Files are built in memory, so that they appear whole.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from conf.errors import OutputError
from streaming.features.schema import FEATURES
from streaming.storage.parquet import with_dictionary

ROWS = pa.schema([*FEATURES, pa.field("date", pa.string(), nullable=False)])
"""`schema.FEATURES` and the day of the partition, as YYYY-MM-DD."""

GROUPS_PER_FILE = 8
"""Of rows in a Parquet file."""

_GZIP_LEVEL = 1  # digits shrink by half at any level


class OpenFile(Protocol):
    """A file that is being written."""

    @property
    def size(self) -> int:
        """Bytes so far, or a little more."""

    def write(self, rows: pa.Table) -> None:
        """Append rows, `ROWS`."""

    def close(self) -> tuple[bytes, int]:
        """The content of the file, and its number of rows."""


class ParquetFile:
    """One file of the columns of the table, in row groups of an eighth of `target` bytes."""

    def __init__(self, target: int) -> None:
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(
            self._buffer, FEATURES, compression="zstd", use_dictionary=with_dictionary(FEATURES)
        )
        self._group_bytes = target // GROUPS_PER_FILE
        self._held: list[pa.Table] = []
        self._held_bytes = 0

    @property
    def size(self) -> int:
        return self._buffer.tell() + self._held_bytes

    def write(self, rows: pa.Table) -> None:
        self._held.append(rows.select(FEATURES.names))
        self._held_bytes += rows.nbytes
        if self._held_bytes >= self._group_bytes:
            self._flush()

    def close(self) -> tuple[bytes, int]:
        self._flush()
        self._writer.close()
        return self._buffer.getvalue(), pq.read_metadata(self._buffer).num_rows

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held).combine_chunks())
        self._held, self._held_bytes = [], 0


class CsvFile:
    """One gzipped file with a header; the features of its one model are columns f0, f1, ..."""

    def __init__(self, _target: int) -> None:
        self._buffer = io.BytesIO()
        # Without a time in the header, the same rows give the same bytes.
        self._gzip = gzip.GzipFile(fileobj=self._buffer, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0)
        self._writer: pyarrow.csv.CSVWriter | None = None
        self._rows = 0

    @property
    def size(self) -> int:
        return self._buffer.tell()

    def write(self, rows: pa.Table) -> None:
        flat = _with_feature_columns(rows)
        if self._writer is None:
            self._writer = pyarrow.csv.CSVWriter(self._gzip, flat.schema)
        self._writer.write_table(flat)
        self._rows += len(flat)

    def close(self) -> tuple[bytes, int]:
        if self._writer is not None:
            self._writer.close()
        self._gzip.close()
        return self._buffer.getvalue(), self._rows


def _with_feature_columns(rows: pa.Table) -> pa.Table:
    features = rows.column("features").combine_chunks()
    counts = pc.unique(pc.list_value_length(features)).to_pylist()
    if len(counts) != 1:
        version = rows.column("model_version")[0].as_py()
        raise OutputError(f"model {version} has rows of {sorted(counts)} features; export them as parquet")
    values = np.asarray(features.flatten()).reshape(-1, *counts)
    flat = rows.drop_columns(["features"])
    for number, column in enumerate(values.T):
        flat = flat.append_column(f"f{number}", pa.array(np.ascontiguousarray(column)))
    return flat


@dataclass(frozen=True)
class Layout:
    """The arrangement of rows in the files of a format.

    Attributes:
        apart: the columns that have only one value in a file, the date first; rows are sorted by these, then by path.
        name: the name of a file, from the values of `apart` and a number within the snapshot.
        open: begins a file, given its target size.
        growth: the approximate ratio of its bytes to those of the table's files.
    """

    apart: tuple[str, ...]
    name: Callable[[Mapping[str, str], str], str]
    open: Callable[[int], OpenFile]
    growth: float

    @property
    def order(self) -> tuple[str, ...]:
        """The columns by which the rows of a snapshot are sorted."""
        return (*self.apart, "path")


LAYOUTS = {
    "parquet": Layout(("date",), lambda of, number: f"date={of['date']}/part-{number}.parquet", ParquetFile, 1.0),
    "csv": Layout(
        ("date", "model_version"),
        lambda of, number: f"{of['model_version']}/{of['date']}-{number}.csv.gz",
        CsvFile,
        1.2,
    ),
}
