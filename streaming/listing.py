"""Lists an input as a Spark job, so that no process holds the whole of it.

It owns how the input is divided among tasks; it must not know what the listing is for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice

import pyarrow as pa
from pyspark.accumulators import Accumulator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from conf.s3 import S3Connection
from streaming.features.denylist import Denylist
from streaming.features.schema import PICTURES
from streaming.features.storage import list_folder, subfolders
from streaming.features.stored import StoredPicture

_SHARES_PER_SLOT = 8
_ROWS_PER_BATCH = 10_000

LISTED = pa.schema(
    [
        pa.field("identity", pa.binary(), nullable=False),
        *PICTURES,
        pa.field("settled", pa.bool_(), nullable=False),
    ]
)
"""A listed picture: its identity, `PICTURES`, and whether it is no longer being written."""


@dataclass(frozen=True)
class Share:
    """A part of an input.

    Attributes:
        folder: canonical path.
        deep: whether what is in the folders inside belongs to it.
    """

    folder: str
    deep: bool


def divide(source: str, wanted: int, connection: S3Connection) -> list[Share]:
    """Shares that hold each picture of the input once, `wanted` deep ones or so if it has as many folders.

    Folders are opened breadth first. One that holds too many files to find the folders among them stays whole.
    """
    opened: list[str] = []
    whole: list[str] = []
    found = deque([source])
    while found and len(found) + len(whole) < wanted and len(opened) < wanted:
        folder = found.popleft()
        inside = subfolders(folder, connection)
        if inside is None:
            whole.append(folder)
        else:
            opened.append(folder)
            found.extend(inside)
    return [Share(folder, deep=True) for folder in (*whole, *found)] + [Share(folder, deep=False) for folder in opened]


def list_with_spark(
    spark: SparkSession,
    source: str,
    connection: S3Connection,
    settle: timedelta,
    denylist: Denylist,
    skipped: Accumulator[int],
) -> DataFrame:
    """The pictures of an input, `LISTED`, in no order; listed anew each time that the frame is computed.

    Args:
        spark: the session.
        source: canonical path of the input.
        connection: how workers reach S3.
        settle: a local file that changed less than this ago may still be being written.
        denylist: what must not be listed.
        skipped: counts what is left out because it cannot be read or is no file.
    """
    slots = spark.sparkContext.defaultParallelism
    shares = divide(source, slots * _SHARES_PER_SLOT, connection)
    table = pa.table({"folder": [share.folder for share in shares], "deep": [share.deep for share in shares]})
    # Each chunk becomes a Spark partition.
    frame = spark.createDataFrame(pa.Table.from_batches(table.to_batches(1)))
    return frame.mapInArrow(
        _list_with(connection, settle.total_seconds(), denylist, skipped), from_arrow_schema(LISTED)
    )


def _list_with(
    connection: S3Connection, settle: float, denylist: Denylist, skipped: Accumulator[int]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def list_shares(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        shares = (share for batch in batches for share in batch.to_pylist())
        pictures = chain.from_iterable(
            list_folder(share["folder"], lambda path, why: skipped.add(1), connection, deep=share["deep"])
            for share in shares
        )
        allowed = (picture for picture in pictures if not denylist.is_forgotten(picture.path))
        while page := list(islice(allowed, _ROWS_PER_BATCH)):
            yield _as_batch(page, settle)

    return list_shares


def _as_batch(pictures: Sequence[StoredPicture], settle: float) -> pa.RecordBatch:
    columns = [
        [picture.identity for picture in pictures],
        *([getattr(picture, name) for picture in pictures] for name in PICTURES.names),
        [picture.is_settled(settle) for picture in pictures],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, LISTED, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=LISTED)
