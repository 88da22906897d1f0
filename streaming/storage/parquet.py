"""Writes tables as the bytes of a Parquet file, and reads its rows and its footer; names a file that is damaged.

It is separate from the schemas because a worker that featurizes writes no Parquet and need not import the writer.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from streaming.storage.damaged import REMEDY, naming
from streaming.storage.folder import Folder, files_ending
from streaming.storage.locations import is_on_s3

_TAIL = 64 * 1024
_LENGTH_AND_MAGIC = 8

Footer = Mapping[bytes, bytes]
"""Key-value metadata that a Parquet file carries beside its rows."""


_ARROW_SCHEMA = b"ARROW:schema"
_UNIQUE = b"picture-features.unique"


def parquet_files(folder: Folder, prefix: str) -> Iterator[str]:
    """The names of the Parquet files below a prefix, in order."""
    return files_ending(folder, prefix, ".parquet")


def read_rows(folder: Folder, name: str, columns: Sequence[str] | None = None, remedy: str = REMEDY) -> pa.Table:
    """All rows of a file in a folder.

    Raises:
        NotFoundError: there is no such file.
        OutputError: it is damaged.
    """
    data = folder.read(name)
    with naming(folder.path(name), remedy):
        return rows_in(data, columns)


def rows_in(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a file with this content.

    PyArrow's threads do not help with a small file, and may abort a program that ends, as they give `data` back late.
    """
    return pq.ParquetFile(pa.BufferReader(data)).read(columns and [*columns], use_threads=False)


@contextmanager
def open_rows(folder: Folder, name: str, remedy: str = REMEDY) -> Iterator[pq.ParquetFile]:
    """A file in a folder, to be read in parts: a local one is read where it lies, an object is fetched as a whole.

    Raises:
        NotFoundError: there is no such file.
        StorageError: it may not be read, or the store fails.
        OutputError: it is damaged, which may show while it is read in the context.
    """
    path = folder.path(name)
    if is_on_s3(folder.root):
        source = pa.BufferReader(folder.read(name))
    else:
        try:
            source = pa.OSFile(path)
        except OSError:
            folder.read_end(name, 1)  # raises what is wrong with it, if it still is
            raise
    with naming(path, remedy), source:
        yield pq.ParquetFile(source)


def as_parquet(table: pa.Table, footer: Footer | None = None) -> bytes:
    """The content of a file with this table, and with `footer` beside its rows."""
    buffer = pa.BufferOutputStream()
    with write_parquet(buffer, table.schema, "zstd", footer) as writer:
        writer.write_table(table)
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def with_dictionary(schema: pa.Schema) -> list[str]:
    """The columns that are to have a dictionary: all but lists of numbers.

    A dictionary makes these half as large again, and slow: no two numbers are the same.
    """
    return [field.name for field in schema if not pa.types.is_list(field.type)]


@contextmanager
def write_parquet(
    sink: pa.NativeFile, schema: pa.Schema, compression: str, footer: Footer | None
) -> Iterator[pq.ParquetWriter]:
    """A writer of a file whose footer has `footer` and the metadata of the schema."""
    carried = schema.metadata or {}
    with pq.ParquetWriter(sink, schema, compression=compression, use_dictionary=with_dictionary(schema)) as writer:
        yield writer
        writer.add_key_value_metadata({key: value for key, value in (footer or {}).items() if key not in carried})


def unique(footer: Footer) -> Footer:
    """The same footer with a random entry, by which a file has another tag than any content that it had before.

    A tag tells of the content only: who replaces a file by what it was once, needs this. Otherwise a process that was
    paused since then could still replace it, by the tag that it has taken there.
    """
    return {**footer, _UNIQUE: uuid.uuid4().hex.encode()}


def footer_of(data: bytes) -> Footer:
    """The footer of a file, or of the last bytes of a file if they hold all of the footer."""
    metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    return {key: value for key, value in metadata.items() if key != _ARROW_SCHEMA}


def read_footer(folder: Folder, name: str, remedy: str = REMEDY) -> Footer:
    """The footer of a file in a folder, of which only the end is read.

    Raises:
        NotFoundError: there is no such file.
        OutputError: it is damaged.
    """
    end = _end(folder, name)
    with naming(folder.path(name), remedy):
        return footer_of(end)


@dataclass(frozen=True)
class Size:
    """The size of one file, or of several.

    Attributes:
        rows: their number.
        bytes: of the rows, as they are stored; the footer does not count.
    """

    rows: int = 0
    bytes: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.rows + other.rows, self.bytes + other.bytes)


def read_size(folder: Folder, name: str) -> Size:
    """The size of a file in a folder, of which only the end is read.

    Raises:
        NotFoundError: there is no such file.
        OutputError: it is damaged.
    """
    end = _end(folder, name)
    with naming(folder.path(name)):
        metadata = pq.read_metadata(pa.BufferReader(end))
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups if group.num_rows for number in range(group.num_columns)]
    return Size(metadata.num_rows, sum(column.total_compressed_size for column in columns))


def count_values(folder: Folder, name: str, column: str, remedy: str = REMEDY) -> Counter[str]:
    """The number of rows of a file by their value in a column of texts.

    Where the statistics show one value in each row group, only the end of the file is read.

    Raises:
        NotFoundError: there is no such file.
        OutputError: it is damaged.
    """
    counts: Counter[str] = Counter()
    end = _end(folder, name)
    with naming(folder.path(name), remedy):
        metadata = pq.read_metadata(pa.BufferReader(end))
        place = metadata.schema.names.index(column)
        for group in filter(lambda one: one.num_rows, map(metadata.row_group, range(metadata.num_row_groups))):
            found = group.column(place).statistics
            if not found or not found.has_min_max or found.min != found.max or found.null_count:
                break
            counts[found.min] += group.num_rows
        else:
            return counts
    return Counter(read_rows(folder, name, [column], remedy).column(column).to_pylist())


def _end(folder: Folder, name: str) -> bytes:
    end = folder.read_end(name, _TAIL)
    length = int.from_bytes(end[-_LENGTH_AND_MAGIC:-4], "little") + _LENGTH_AND_MAGIC
    return end if length <= len(end) else folder.read_end(name, length)
