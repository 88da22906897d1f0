"""Files with rows of pictures: how many rows of one are forgotten, and the same file without them.

It owns what there is to know of a format, told by the end of the file's name; it must not know where a file lies. What
stays keeps its order, its schema and its row groups, and what stays of a text stays as it is to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from streaming.features.denylist import Denylist

_PATH = "path"
_NO_COMPRESSION = "UNCOMPRESSED"


def has_rows(name: str) -> bool:
    """Whether a file of this name may hold rows of pictures."""
    return name.endswith((".parquet", ".json")) and not name.rpartition("/")[2].startswith((".", "_"))


def forgotten_paths(name: str, data: bytes, denylist: Denylist) -> list[str]:
    """The paths in a file that are forgotten, one for each row."""
    paths = _lines(data) if name.endswith(".json") else _column(data)
    return [path for path in paths if denylist.is_forgotten(path)]


def without_forgotten(name: str, data: bytes, denylist: Denylist) -> bytes:
    """The content of a file without the rows that are forgotten."""
    remove: Callable[[bytes, Denylist], bytes] = _without_lines if name.endswith(".json") else _without_rows
    return remove(data, denylist)


def _lines(data: bytes) -> Iterator[str]:
    return (json.loads(line)[_PATH] for line in data.splitlines())


def _without_lines(data: bytes, denylist: Denylist) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join(line for line in lines if not denylist.is_forgotten(json.loads(line)[_PATH]))


def _column(data: bytes) -> Iterator[str]:
    file = pq.ParquetFile(pa.BufferReader(data))
    for batch in file.iter_batches(columns=[_PATH]):
        yield from batch.column(0).to_pylist()


def _without_rows(data: bytes, denylist: Denylist) -> bytes:
    file = pq.ParquetFile(pa.BufferReader(data))
    groups = range(file.metadata.num_row_groups)
    compression = file.metadata.row_group(0).column(0).compression if groups else "ZSTD"
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(
        buffer, file.schema_arrow, compression="NONE" if compression == _NO_COMPRESSION else compression
    ) as writer:
        for group in groups:
            rows = file.read_row_group(group)
            writer.write_table(denylist.without(rows), row_group_size=max(len(rows), 1))
    return bytes(buffer.getvalue().to_pybytes())
