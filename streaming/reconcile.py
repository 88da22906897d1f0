"""Compares the whole input with the manifest log, and requests what was missed.

It owns what counts as missed, changed and gone; it must not know how the input is listed, nor what becomes of a
request. It reads beside a running stream and takes no lease: a listing, the record and the log are joined by Spark.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - as everybody calls it

from conf.errors import InputError
from conf.progress import task_bar
from conf.s3 import S3Connection
from conf.session import start_session
from conf.settings import Settings
from streaming import known, manifests, requests
from streaming.features.denylist import Denylist
from streaming.features.storage import check_outside, is_on_s3, list_pictures, resolve, spark_glob
from streaming.features.stored import Folder, StoredPicture, identity_of
from streaming.findings import Changed, Findings
from streaming.listing import list_with_spark
from streaming.places import open_output

PICTURES_PER_REQUEST = 10_000
_EXAMPLES = 10
_ATTEMPTS = 3
_ROWS_PER_PARTITION = 250_000
_S3_TOLERANCE = timedelta(seconds=60)  # the time of an event is not quite the object's
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KNOWN_SCHEMA = f"{manifests.SPARK_SCHEMA}, identity BINARY"
_RECORD_SCHEMA = _KNOWN_SCHEMA.replace("identity", "hash")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Places:
    source: str
    output: Folder
    connection: S3Connection

    @classmethod
    def of(cls, settings: Settings) -> _Places:
        """Checked, without Spark."""
        assert settings.input is not None
        assert settings.output is not None
        connection = S3Connection.of(settings.s3)
        source = resolve(settings.input)
        check_outside(source, {"output": resolve(settings.output)})
        if next(list_pictures(source, lambda path, why: None, connection), None) is None:
            raise InputError(f"{source}: there are no pictures in this folder; check --input")
        return cls(source, open_output(settings, connection), connection)

    def spark_properties(self) -> dict[str, str]:
        return self.connection.spark_properties() if is_on_s3(self.output.root) else {}


def reconcile(settings: Settings, *, enqueue: bool) -> Findings:
    """Compare the input with what manifests hold, and with `enqueue` request what was missed.

    Raises:
        InputError: the input is missing, empty, or cannot be listed.
        OutputError: the output is none.
    """
    places = _Places.of(settings)
    spark = start_session("picture-features reconcile", settings, places.spark_properties())
    try:
        with task_bar(spark):
            return _reconcile(spark, places, settings.stream.settle, enqueue=enqueue)
    finally:
        spark.stop()


def _reconcile(spark: SparkSession, places: _Places, settle: timedelta, *, enqueue: bool) -> Findings:
    started = datetime.now(UTC)
    skipped = spark.sparkContext.accumulator(0)
    reached = places.connection.resolved() if is_on_s3(places.source) else places.connection
    denylist = Denylist.load(places.output)
    listing = list_with_spark(spark, places.source, reached, settle, denylist, skipped)
    # Listed once, and before the log is read: what the stream finds meanwhile is in both.
    listing = listing.persist(StorageLevel.DISK_ONLY)
    listed, left_out = listing.count(), skipped.value
    partitions = max(spark.sparkContext.defaultParallelism, listed // _ROWS_PER_PARTITION)
    differences = _compare_at_rest(spark, places, listing, started, partitions)
    findings = _summarize(places, differences, listed, left_out)
    if enqueue:
        missed = differences.where("what = 'missed'")
        findings = replace(findings, requests=_enqueue(places.output, missed))
    return findings


def _compare_at_rest(
    spark: SparkSession, places: _Places, listing: DataFrame, started: datetime, partitions: int
) -> DataFrame:
    """The differences, computed while the stream did not fold its log, which moves pictures from file to file."""
    attempt = 1
    while True:
        record = list(places.output.names(known.FOLDER))
        seen = _read_known(spark, places.output).repartition(partitions, "identity")
        differences = _compare(listing.repartition(partitions, "identity"), seen, places.source, started)
        differences = differences.persist(StorageLevel.DISK_ONLY)
        differences.count()
        if list(places.output.names(known.FOLDER)) == record or attempt == _ATTEMPTS:
            return differences
        _logger.info("the stream folded its log meanwhile; comparing again")
        differences.unpersist()
        attempt += 1


def _compare(listing: DataFrame, seen: DataFrame, source: str, started: datetime) -> DataFrame:
    """What differs: `what`, the listed picture, and the known length and time."""
    # A picture is in several files after a fold that was killed, or when it is requested too; a manifest comes first.
    there = F.struct("manifest", F.col("path").startswith(f"{source.rstrip('/')}/").alias("inside"), *_FINGERPRINT)
    latest = seen.groupBy("identity").agg(F.max(there).alias("seen"))
    since = f"{started:%Y%m%dT%H%M%S%fZ}"
    what = (
        F.when(F.col("seen").isNull(), F.when(F.col("settled"), "missed").otherwise("unsettled"))
        # Of what the stream found after the listing began, and of other inputs, nothing can be said.
        .when(
            F.col("path").isNull(),
            F.when(F.col("seen.inside") & (F.col("seen.manifest") < since), "gone"),
        )
        .when(F.col("seen.manifest").isNull(), "requested")
        .when(_has_changed(is_on_s3(source)), "changed")
    )
    joined = listing.join(latest, "identity", "full_outer").withColumn("what", what)
    return joined.where("what IS NOT NULL").select(
        "what",
        "path",
        *_FINGERPRINT,
        F.col("seen.length").alias("known_length"),
        F.col("seen.modification_time").alias("known_modification_time"),
    )


_FINGERPRINT = ("length", "modification_time", "etag")


def _has_changed(on_s3: bool) -> Column:  # noqa: FBT001 - the only argument
    tolerance = _S3_TOLERANCE if on_s3 else timedelta(0)
    apart = F.abs(F.unix_micros("modification_time") - F.unix_micros("seen.modification_time"))
    return (
        (F.col("length") != F.col("seen.length"))
        | F.coalesce(F.col("etag") != F.col("seen.etag"), F.lit(False))  # no tag on either side says nothing
        | (apart > tolerance // timedelta(microseconds=1))
    )


def _read_known(spark: SparkSession, output: Folder) -> DataFrame:
    """What the record, the log and the requests hold; `manifest` is null in a request. All may be missing."""
    frame = spark.createDataFrame([], _KNOWN_SCHEMA)
    reader = spark.read.option("ignoreMissingFiles", value=True)  # the stream deletes what it has taken in or folded
    for folder in (requests.FOLDER, manifests.FOLDER):
        if next(output.names(folder), None) is not None:
            lines = reader.schema(manifests.SPARK_SCHEMA).option("mode", "FAILFAST").json(_uri(output, folder))
            frame = frame.unionByName(lines.mapInArrow(_add_identity, _KNOWN_SCHEMA))
    if next(output.names(known.FOLDER), None) is not None:
        record = reader.schema(_RECORD_SCHEMA).parquet(_uri(output, known.FOLDER))
        frame = frame.unionByName(record.withColumnRenamed("hash", "identity"))
    return frame


def _uri(output: Folder, folder: str) -> str:
    return spark_glob(output.path(folder))


def _add_identity(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        identities = pa.array([identity_of(path) for path in batch.column("path").to_pylist()], pa.binary())
        yield pa.RecordBatch.from_arrays([*batch.columns, identities], [*batch.schema.names, "identity"])


def _summarize(places: _Places, differences: DataFrame, listed: int, left_out: int) -> Findings:
    counts = {row["what"]: row["count"] for row in differences.groupBy("what").count().collect()}
    return Findings(
        input=places.source,
        output=places.output.root,
        listed=listed,
        **{what: counts.get(what, 0) for what in ("missed", "changed", "gone", "requested", "unsettled")},
        left_out=left_out,
        missed_examples=[row["path"] for row in _first(differences, "missed")],
        changed_examples=[
            Changed(
                path=row["path"],
                length=row["length"],
                modification_time=row["modification_time"],
                known_length=row["known_length"],
                known_modification_time=row["known_modification_time"],
            )
            for row in _first(differences, "changed")
        ],
    )


def _first(differences: DataFrame, what: str) -> list[dict[str, Any]]:
    """The first rows, through Arrow, because `collect` would give times without a zone, in that of this process."""
    first = differences.where(F.col("what") == what).orderBy("path").limit(_EXAMPLES)
    rows: list[dict[str, Any]] = first.toArrow().to_pylist()
    return rows


def _time(micros: int) -> datetime:
    """Spark would give a time without a zone, in that of this process."""
    return _EPOCH + timedelta(microseconds=micros)


def _enqueue(output: Folder, missed: DataFrame) -> list[str]:
    """Request pictures and return the requests' ids; the same pictures give the same requests.

    They are taken in the order of their paths, so that what is missed still after a kill in between, without what is
    requested already, gives the requests that are missing. This process holds one request at a time, and a partition.
    """
    columns = ("path", "length", F.unix_micros("modification_time").alias("micros"), "etag")
    rows = missed.orderBy("path").select(*columns).toLocalIterator()
    denylist = Denylist.load(output)  # which may have grown since the listing
    pictures = (_picture(row) for row in rows if not denylist.is_forgotten(row["path"]))
    made = []
    while request := list(islice(pictures, PICTURES_PER_REQUEST)):
        made.append(requests.create_request(output, request))
    return made


def _picture(row: Any) -> StoredPicture:
    return StoredPicture(row["path"], row["length"], _time(row["micros"]), row["etag"])
