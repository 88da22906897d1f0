"""Compares an input with what the stream has seen on Spark, so that no process holds all of either.

Both are divided into parts by identity, and workers compare part with part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the usual name
from pyspark.sql.pandas.types import from_arrow_schema

from streaming.lease.denylist import Denylist
from streaming.operate.comparison import DIFFERENCES, LISTED, SEEN, InputComparison, at_rest
from streaming.operate.parallel_listing import LeftOutCounts, list_with_spark
from streaming.output import known, manifests, requests
from streaming.output.places import Input
from streaming.storage.folder import Folder, StoredPicture, identity_of
from streaming.storage.locations import is_on_s3, spark_glob

_ROWS_PER_PART = 100_000  # up to 150 MB of a worker; see `in_process.LIMIT`
_PARTS_PER_SLOT = 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEEN_SCHEMA = f"{manifests.SPARK_SCHEMA}, identity BINARY"
_RECORD_SCHEMA = _SEEN_SCHEMA.replace("identity", "hash")


@dataclass(frozen=True)
class DifferencesOnSpark:
    """Differences on the executors' disks; see `reconcile.Differences`."""

    listed: int
    unusable: int
    ignored: int
    frame: DataFrame

    def counts(self) -> Mapping[str, int]:
        return {row["what"]: row["count"] for row in self.frame.groupBy("what").count().collect()}

    def first(self, what: str, count: int) -> Sequence[dict[str, Any]]:
        # Through Arrow: `collect` would give times without zone, in that of this process.
        rows: list[dict[str, Any]] = self._sorted(what).limit(count).toArrow().to_pylist()
        return rows

    def missed(self) -> Iterator[StoredPicture]:
        columns = ("path", "length", F.unix_micros("modification_time").alias("micros"), "etag")
        for row in self._sorted("missed").select(*columns).toLocalIterator():  # one partition at a time
            yield StoredPicture(row["path"], row["length"], _time(row["micros"]), row["etag"])

    def _sorted(self, what: str) -> DataFrame:
        return self.frame.where(F.col("what") == what).orderBy("path")


def _time(micros: int) -> datetime:
    """A time in UTC from microseconds; Spark's own would be without zone, in that of this process."""
    return _EPOCH + timedelta(microseconds=micros)


def compare_on_spark(spark: SparkSession, source: Input, output: Folder, settle: timedelta) -> DifferencesOnSpark:
    """The differences, however many pictures there are."""
    started = datetime.now(UTC)
    left_out = LeftOutCounts.of(spark)
    reached = replace(source, connection=source.connection.resolved()) if is_on_s3(source.root) else source
    listing = list_with_spark(spark, reached, settle, Denylist.load(output), left_out)
    # Listed once, and before the log is read, so that each listed picture that the stream has found is in both.
    listing = listing.persist(StorageLevel.DISK_ONLY)
    listed = listing.count()
    unusable, ignored = left_out.unusable.value, left_out.ignored.value
    slots = spark.sparkContext.defaultParallelism
    parts = max(slots * _PARTS_PER_SLOT, (listed + known.count_folded(output)) // _ROWS_PER_PART)
    spark.conf.set("spark.sql.shuffle.partitions", parts)  # Spark's 200 take 15 s to do nothing
    comparison = InputComparison.of(source, started)

    def compare() -> DataFrame:
        differences = _compare(comparison, listing, _read_seen(spark, output), parts).persist(StorageLevel.DISK_ONLY)
        differences.count()
        return differences

    return DifferencesOnSpark(listed, unusable, ignored, at_rest(output, compare))


def _compare(comparison: InputComparison, listing: DataFrame, seen: DataFrame, parts: int) -> DataFrame:
    """The differences, each part of which is computed by one worker."""

    def differences(listed: pa.Table, seen: pa.Table) -> pa.Table:
        return comparison.differences(listed.select(LISTED.names), seen.select(SEEN.names))

    part = F.pmod(F.hash("identity"), F.lit(parts)).alias("part")
    both = listing.groupBy(part).cogroup(seen.groupBy(part))
    return both.applyInArrow(differences, from_arrow_schema(DIFFERENCES))


def _read_seen(spark: SparkSession, output: Folder) -> DataFrame:
    """The pictures in requests, log and record as `SEEN`; all may be missing."""
    frame = spark.createDataFrame([], _SEEN_SCHEMA)
    reader = spark.read.option("ignoreMissingFiles", value=True)  # the stream deletes what it has taken in or folded
    for folder in (requests.REQUESTS_FOLDER, manifests.LOG_FOLDER):
        if next(output.names(folder), None) is not None:
            lines = reader.schema(manifests.SPARK_SCHEMA).option("mode", "FAILFAST").json(_uri(output, folder))
            frame = frame.unionByName(lines.mapInArrow(_add_identity, _SEEN_SCHEMA))
    if next(output.names(known.KNOWN_FOLDER), None) is not None:
        record = reader.schema(_RECORD_SCHEMA).parquet(_uri(output, known.KNOWN_FOLDER))
        frame = frame.unionByName(record.withColumnRenamed("hash", "identity"))
    return frame


def _uri(output: Folder, folder: str) -> str:
    return spark_glob(output.path(folder))


def _add_identity(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        identities = pa.array([identity_of(path) for path in batch.column("path").to_pylist()], pa.binary())
        yield pa.RecordBatch.from_arrays([*batch.columns, identities], [*batch.schema.names, "identity"])
