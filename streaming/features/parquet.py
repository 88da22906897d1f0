"""Tables as the bytes of one Parquet file.

It owns how our small files are compressed; it must not know what is in them. It is apart from the schemas, because a
worker that featurizes writes no Parquet and need not load what does.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq


def as_parquet(table: pa.Table) -> bytes:
    """The content of a file with this table."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    data: bytes = buffer.getvalue().to_pybytes()
    return data
