"""Lists an input as a Spark job, so that no process holds all of it. Each task lists shares of the input's folders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Self

import pyarrow as pa
from pyspark.accumulators import Accumulator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from conf.aws.connection import S3Connection
from streaming.lease.denylist import Denylist
from streaming.operate.comparison import LISTED, as_listed
from streaming.output.places import Input
from streaming.storage.folder import OnSkip
from streaming.storage.locations import list_folder, subfolders
from streaming.storage.names import ALL_NAMES, IGNORED, Names

_SHARES_PER_SLOT = 8


@dataclass(frozen=True)
class Share:
    """A part of an input.

    Attributes:
        folder: canonical path.
        deep: whether the folders inside belong to it, too.
    """

    folder: str
    deep: bool


def divide(
    source: str,
    wanted: int,
    connection: S3Connection,
    names: Names = ALL_NAMES,
    on_skip: OnSkip = lambda path, why: None,
) -> list[Share]:
    """Shares that hold each picture of the input once; about `wanted` deep ones, if it has as many folders.

    Folders are opened breadth first. A folder with too many files to find its subfolders cheaply is not divided.
    """
    opened: list[str] = []
    whole: list[str] = []
    found = deque([source])
    while found and len(found) + len(whole) < wanted and len(opened) < wanted:
        folder = found.popleft()
        inside = subfolders(folder, on_skip, connection, names)
        if inside is None:
            whole.append(folder)
        else:
            opened.append(folder)
            found.extend(inside)
    return [Share(folder, deep=True) for folder in (*whole, *found)] + [Share(folder, deep=False) for folder in opened]


@dataclass(frozen=True)
class LeftOutCounts:
    """Counts, over all tasks, of entries that are not listed.

    Attributes:
        unusable: entries that cannot be read, or are not files.
        ignored: files and folders that are ignored by their names.
    """

    unusable: Accumulator[int]
    ignored: Accumulator[int]

    @classmethod
    def of(cls, spark: SparkSession) -> Self:
        """Counts of zero."""
        return cls(spark.sparkContext.accumulator(0), spark.sparkContext.accumulator(0))

    def __call__(self, path: str, why: str) -> None:
        """Count an entry; see `OnSkip`."""
        (self.ignored if why == IGNORED else self.unusable).add(1)


def list_with_spark(
    spark: SparkSession,
    source: Input,
    settle: timedelta,
    denylist: Denylist,
    left_out: LeftOutCounts,
) -> DataFrame:
    """The pictures of an input, `LISTED`, in no order, without those on the denylist; see `as_listed` for `settle`.

    They are listed again, and what is left out is counted again, each time that the frame is computed.
    """
    slots = spark.sparkContext.defaultParallelism
    shares = divide(source.root, slots * _SHARES_PER_SLOT, source.connection, source.names, left_out)
    table = pa.table({"folder": [share.folder for share in shares], "deep": [share.deep for share in shares]})
    # Each chunk becomes a Spark partition.
    frame = spark.createDataFrame(pa.Table.from_batches(table.to_batches(1)))
    return frame.mapInArrow(_list_with(source, settle, denylist, left_out), from_arrow_schema(LISTED))


def _list_with(
    source: Input, settle: timedelta, denylist: Denylist, left_out: LeftOutCounts
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def list_shares(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        shares = (share for batch in batches for share in batch.to_pylist())
        pictures = chain.from_iterable(
            list_folder(share["folder"], left_out, source.connection, source.names, deep=share["deep"])
            for share in shares
        )
        return as_listed((picture for picture in pictures if not denylist.is_forgotten(picture.path)), settle)

    return list_shares
