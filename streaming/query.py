"""The query over the manifest log.

It owns how Spark is asked for micro-batches; it must not know what is done in one.
"""

from __future__ import annotations

from pyspark.sql import SparkSession
from pyspark.sql.functions import current_timestamp
from pyspark.sql.streaming.query import StreamingQuery

from streaming import manifests
from streaming.features.storage import spark_glob
from streaming.features.stored import Folder
from streaming.microbatch import MicroBatches


def start_query(
    spark: SparkSession, output: Folder, checkpoint: str, batches: MicroBatches, *, available_now: bool
) -> StreamingQuery:
    """The query over the manifest log: each manifest is one micro-batch."""
    log = (
        spark.readStream.format("json")
        .schema(manifests.SPARK_SCHEMA)
        .option("mode", "FAILFAST")
        .option("maxFilesPerTrigger", 1)
        .option("maxFileAge", "36500d")
        .load(spark_glob(output.path(manifests.FOLDER)))
    )
    # The query's own clock is logged with the offsets, so that a retry stamps its rows with the same time.
    stamped = log.withColumn("processed_at", current_timestamp())
    writer = stamped.writeStream.foreachBatch(batches).option("checkpointLocation", checkpoint)
    return (writer.trigger(availableNow=True) if available_now else writer).start()


def raise_failure(failure: Exception | None, batches: MicroBatches) -> None:
    """Raise what ended a query: our own error rather than Spark's wrapping of it."""
    if batches.failure:
        raise batches.failure
    if failure:
        raise failure
