"""The files of a snapshot: rows of the table of features in, the bytes of Parquet or CSV files out.

It owns what each format looks like: columns, names, what is kept apart; it must not know where rows come from, nor of
Spark. Files are built in memory, so that they can appear whole.
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

ROWS = pa.schema([*FEATURES, pa.field("date", pa.string(), nullable=False)])
"""`schema.FEATURES` and the day of the partition, as YYYY-MM-DD."""

_GROUPS_PER_FILE = 8
_GZIP_LEVEL = 1  # digits shrink by half at any level


class File(Protocol):
    """A file that is being written."""

    @property
    def size(self) -> int:
        """Bytes so far, or a little more."""

    def write(self, rows: pa.Table) -> None:
        """Append rows, `ROWS`."""

    def close(self) -> tuple[bytes, int]:
        """The content, and how many rows it has."""


class ParquetFile:
    """One file of the columns of the table, in row groups of an eighth of `target` bytes."""

    def __init__(self, target: int) -> None:
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(self._buffer, FEATURES, compression="zstd")
        self._group_bytes = target // _GROUPS_PER_FILE
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
    """How a format arranges rows.

    Attributes:
        apart: columns of which a file holds one value each, the date first; rows are in the order of these, then of
            their paths.
        name: the name of a file, from the values of `apart` and a number within the snapshot.
        open: begins a file, given the size that it will be of.
        growth: bytes of its files over those of the table's, about.
    """

    apart: tuple[str, ...]
    name: Callable[[Mapping[str, str], str], str]
    open: Callable[[int], File]
    growth: float


LAYOUTS = {
    "parquet": Layout(("date",), lambda of, number: f"date={of['date']}/part-{number}.parquet", ParquetFile, 1.0),
    "csv": Layout(
        ("date", "model_version"),
        lambda of, number: f"{of['model_version']}/{of['date']}-{number}.csv.gz",
        CsvFile,
        1.2,
    ),
}
