"""Runs the Spark query over the manifest log, with one manifest per micro-batch."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import current_timestamp
from pyspark.sql.streaming.query import StreamingQuery

from streaming.engine.microbatch import MicroBatches
from streaming.output import manifests
from streaming.storage.folder import Folder
from streaming.storage.locations import spark_glob


@contextmanager
def running_query(
    spark: SparkSession, output: Folder, checkpoint: str, batches: MicroBatches, *, available_now: bool
) -> Iterator[StreamingQuery]:
    """The query over the manifest log; leaving the context lets the running micro-batch finish."""
    log = (
        spark.readStream.format("json")
        .schema(manifests.SPARK_SCHEMA)
        .option("mode", "FAILFAST")
        .option("maxFilesPerTrigger", 1)
        .option("maxFileAge", "36500d")
        .load(spark_glob(output.path(manifests.LOG_FOLDER)))
    )
    # The query's own clock is logged with the offsets, so that a retry stamps its rows with the same time.
    stamped = log.withColumn("processed_at", current_timestamp())
    callback = _Callback(spark, batches)
    writer = stamped.writeStream.foreachBatch(callback).option("checkpointLocation", checkpoint)
    query = (writer.trigger(availableNow=True) if available_now else writer).start()
    try:
        yield query
    finally:
        batches.drain()
        query.stop()
        callback.close()


class _Callback:
    """Forwards Spark's calls to the micro-batches, and closes the connection of py4j that they came through.

    A query calls from a Java thread of its own. For that py4j opens a socket and a Python thread, and closes neither
    when the query ends: a stream that changes its epoch for years would run out of both.
    """

    def __init__(self, spark: SparkSession, batches: MicroBatches) -> None:
        gateway = spark.sparkContext._gateway  # noqa: SLF001 # py4j itself is not public in PySpark
        assert gateway is not None
        self._client = gateway._gateway_client  # noqa: SLF001 # as above
        self._batches = batches
        self._socket: socket.socket | None = None

    def __call__(self, batch: DataFrame, batch_id: int) -> None:
        self._socket = self._client.get_thread_connection().socket
        self._batches(batch, batch_id)

    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # the JVM may be gone
                self._socket.shutdown(socket.SHUT_RDWR)  # py4j's thread wakes up and ends


def raise_failure(failure: Exception | None, batches: MicroBatches) -> None:
    """Raise the failure of a query, preferring our own error to the exception that Spark wraps around it."""
    if batches.failure:
        raise batches.failure
    if failure:
        raise failure
