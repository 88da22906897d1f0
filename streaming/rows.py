"""Files with rows of pictures: how many rows of one are forgotten, and the same file without them.

It owns what there is to know of a format, told by the end of the file's name; it must not know where a file lies. What
stays keeps its order, its schema and its row groups, and what stays of a text stays as it is to the byte.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from streaming.features.denylist import Denylist

_PATH = "path"


class _Format(Protocol):
    def paths(self, data: bytes) -> Iterable[str]:
        """Of all rows."""

    def without(self, data: bytes, denylist: Denylist) -> bytes:
        """The content without the rows that are forgotten."""


class _Parquet:
    def paths(self, data: bytes) -> Iterator[str]:
        file = pq.ParquetFile(pa.BufferReader(data))
        for batch in file.iter_batches(columns=[_PATH]):
            yield from batch.column(0).to_pylist()

    def without(self, data: bytes, denylist: Denylist) -> bytes:
        file = pq.ParquetFile(pa.BufferReader(data))
        groups = range(file.metadata.num_row_groups)
        compression = file.metadata.row_group(0).column(0).compression if groups else "ZSTD"
        if compression == "UNCOMPRESSED":
            compression = "NONE"
        buffer = pa.BufferOutputStream()
        with pq.ParquetWriter(buffer, file.schema_arrow, compression=compression) as writer:
            for group in groups:
                if len(kept := denylist.without(file.read_row_group(group))):
                    writer.write_table(kept, row_group_size=len(kept))
        return bytes(buffer.getvalue().to_pybytes())


class _JsonLines:
    def paths(self, data: bytes) -> Iterator[str]:
        return (json.loads(line)[_PATH] for line in data.splitlines())

    def without(self, data: bytes, denylist: Denylist) -> bytes:
        lines = data.splitlines(keepends=True)
        return b"".join(line for line in lines if not denylist.is_forgotten(json.loads(line)[_PATH]))


class _GzippedCsv:
    def paths(self, data: bytes) -> Iterator[str]:
        return (path for path, _ in self._records(data) if path is not None)

    def without(self, data: bytes, denylist: Denylist) -> bytes:
        kept = (text for path, text in self._records(data) if path is None or not denylist.is_forgotten(path))
        buffer = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as file,
            io.TextIOWrapper(file, encoding="utf-8", newline="") as text,
        ):
            text.writelines(kept)
        return buffer.getvalue()

    @staticmethod
    def _records(data: bytes) -> Iterator[tuple[str | None, str]]:
        """The path of each record and the record as it stands; of the header, no path."""
        place = None
        record = ""
        # Read as it comes: a worker would need many times the size of the file to hold all of its text.
        with gzip.open(io.BytesIO(data), "rt", encoding="utf-8", newline="") as lines:
            for line in lines:
                record += line
                if record.count('"') % 2:  # a quoted value goes on in the next line
                    continue
                [cells] = csv.reader([record], strict=True) if record.strip() else [[]]
                if place is None:
                    place = cells.index(_PATH)
                    yield None, record
                else:
                    yield cells[place], record
                record = ""


_FORMATS: dict[str, _Format] = {".parquet": _Parquet(), ".json": _JsonLines(), ".csv.gz": _GzippedCsv()}


def has_rows(name: str) -> bool:
    """Whether a file of this name may hold rows of pictures."""
    return name.endswith(tuple(_FORMATS)) and not name.rpartition("/")[2].startswith((".", "_"))


def count_rows(name: str, data: bytes) -> int:
    """How many rows a file has."""
    return sum(1 for _ in _format_of(name).paths(data))


def forgotten_paths(name: str, data: bytes, denylist: Denylist) -> list[str]:
    """The paths in a file that are forgotten, one for each row."""
    return [path for path in _format_of(name).paths(data) if denylist.is_forgotten(path)]


def without_forgotten(name: str, data: bytes, denylist: Denylist) -> bytes:
    """The content of a file without the rows that are forgotten; the very same if there are none."""
    return _format_of(name).without(data, denylist) if forgotten_paths(name, data, denylist) else data


def _format_of(name: str) -> _Format:
    return next(one for suffix, one in _FORMATS.items() if name.endswith(suffix))
