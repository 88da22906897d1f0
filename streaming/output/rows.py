"""Finds and removes the rows of forgotten pictures in Parquet, JSON lines and gzipped CSV files.

The end of the file's name tells the format. The remaining rows keep their order, schema and row groups; the remaining
lines of a text are unchanged to the byte.
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

from conf.errors import ConflictError, NotFoundError
from streaming.lease.denylist import Denylist
from streaming.output.decision import rejected_in, with_rejected
from streaming.storage.folder import Folder
from streaming.storage.locations import is_on_s3
from streaming.storage.parquet import footer_of, write_parquet

_PATH = "path"
_ATTEMPTS = 10


class _Format(Protocol):
    def paths(self, data: bytes) -> Iterable[str]:
        """The paths of all rows."""

    def paths_beside(self, data: bytes) -> Iterable[str]:
        """The paths that the file names outside of its rows."""

    def without(self, data: bytes, denylist: Denylist) -> bytes:
        """The content without the rows of forgotten pictures."""


class _Parquet:
    def paths(self, data: bytes) -> Iterator[str]:
        file = pq.ParquetFile(pa.BufferReader(data))
        for batch in file.iter_batches(columns=[_PATH], use_threads=False):
            yield from batch.column(0).to_pylist()

    def paths_beside(self, data: bytes) -> Iterable[str]:
        rejected = rejected_in(footer_of(data))
        return [] if rejected is None else rejected.column(_PATH).to_pylist()

    def without(self, data: bytes, denylist: Denylist) -> bytes:
        file = pq.ParquetFile(pa.BufferReader(data))
        groups = range(file.metadata.num_row_groups)
        compression = file.metadata.row_group(0).column(0).compression if groups else "ZSTD"
        if compression == "UNCOMPRESSED":
            compression = "NONE"
        buffer = pa.BufferOutputStream()
        footer = footer_of(data)
        if (rejected := rejected_in(footer)) is not None:
            footer = with_rejected(footer, denylist.without(rejected))
        with write_parquet(buffer, file.schema_arrow, compression, footer) as writer:
            for group in groups:
                if len(kept := denylist.without(file.read_row_group(group, use_threads=False))):
                    writer.write_table(kept, row_group_size=len(kept))
        return bytes(buffer.getvalue().to_pybytes())


class _Text:
    def paths_beside(self, data: bytes) -> Iterable[str]:
        return ()


class _JsonLines(_Text):
    def paths(self, data: bytes) -> Iterator[str]:
        return (json.loads(line)[_PATH] for line in data.splitlines())

    def without(self, data: bytes, denylist: Denylist) -> bytes:
        lines = data.splitlines(keepends=True)
        return b"".join(line for line in lines if not denylist.is_forgotten(json.loads(line)[_PATH]))


class _GzippedCsv(_Text):
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
        """The path and the unchanged text of each record; the header has no path."""
        place = None
        record = ""
        # Streamed: a worker would need many times the size of the file to hold all of its text.
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
    """The number of rows in a file."""
    return sum(1 for _ in _format_of(name).paths(data))


def forgotten_paths(name: str, data: bytes, denylist: Denylist) -> list[str]:
    """The paths in a file that are forgotten, one for each row."""
    return [path for path in _format_of(name).paths(data) if denylist.is_forgotten(path)]


def forgotten_beside(name: str, data: bytes, denylist: Denylist) -> list[str]:
    """The forgotten paths outside of a file's rows: a features file names those in quarantine in its footer."""
    return [path for path in _format_of(name).paths_beside(data) if denylist.is_forgotten(path)]


def without_forgotten(name: str, data: bytes, denylist: Denylist) -> bytes:
    """The content of a file without the rows of forgotten pictures; the same object if there are none."""
    if forgotten_paths(name, data, denylist) or forgotten_beside(name, data, denylist):
        return _format_of(name).without(data, denylist)
    return data


def erase_in(folder: Folder, name: str, denylist: Denylist) -> None:
    """Replace a file by one without the rows of forgotten pictures, unless it is gone.

    Raises:
        ConflictError: other processes keep changing it.
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
    """Delete the checksum that Hadoop keeps beside a local file of Spark's, which would not match a new content."""
    if not is_on_s3(folder.root):
        parent, _, file = name.rpartition("/")
        folder.delete(f"{parent}/.{file}.crc".lstrip("/"))


def _format_of(name: str) -> _Format:
    return next(one for suffix, one in _FORMATS.items() if name.endswith(suffix))
