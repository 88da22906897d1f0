"""One distributed pass over pictures: featurizes them on the executors, and folds their features there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.accumulators import Accumulator
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col, element_at, split
from pyspark.sql.pandas.types import from_arrow_schema

from batch_fit.folding import IN_SPARK, Featurized, Marks, collect, fold_with
from conf.errors import SettingsError
from conf.spark.tasks import is_retry
from conf.spark.ticks import Ticks
from streaming.features.featurizer import Recipe
from streaming.features.schema import OUTCOMES, as_table
from streaming.features.workers import deal, featurize_with
from streaming.storage.folder import StoredPicture
from streaming.storage.identities import Identities
from streaming.storage.locations import spark_uri

_PICTURES_PER_TASK = (250, 4000)
_TASKS = 64
_ROWS_OF_A_BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"

unfinished: set[str] = set()
"""Canonical paths of features that this process has begun to save, and has no model of yet."""


@dataclass(frozen=True)
class Kept:
    """Says what is kept of the pictures' features, besides their statistics.

    Attributes:
        save_to: canonical path of a new Parquet table of path, label and features; None for none.
        for_more: whether they stay on the executors' disks for a second pass.
    """

    save_to: str | None
    for_more: bool


@dataclass(frozen=True)
class Done:
    """Counts the pictures that are done.

    Attributes:
        finished: those of finished tasks.
        ticks: those of running ones as well, where that is possible.
    """

    finished: Accumulator[int]
    ticks: Ticks

    def count(self, total: int) -> int:
        """Their number, of `total`."""
        return self.ticks.count(self.finished.value, total)


def featurize(
    spark: SparkSession, pictures: Sequence[StoredPicture], recipe: Recipe, kept: Kept, done: Done
) -> tuple[Featurized, DataFrame | None]:
    """Featurize pictures, at least one, on the executors, by a recipe without a projection.

    Returns the result, and the outcomes if they are kept for more.
    """
    dealt = deal(as_table(pictures), task_count(len(pictures)))
    tasks, marks = dealt.column(0).num_chunks, Marks.of(Identities.of(picture.identity for picture in pictures))
    frame, broadcast = divide(spark, dealt), spark.sparkContext.broadcast(recipe)
    to_outcomes, fold = featurize_with(broadcast, is_retry, done.ticks.tick), fold_with(marks, done.finished)
    outcomes = None
    if kept.save_to is None and not kept.for_more:
        featurized = collect(frame.mapInArrow(lambda batches: fold(to_outcomes(batches)), IN_SPARK), tasks, marks)
    else:
        outcomes = frame.mapInArrow(to_outcomes, from_arrow_schema(OUTCOMES)).persist(StorageLevel.DISK_ONLY)
        if kept.save_to:
            _save(outcomes, kept.save_to)
        featurized = collect(outcomes.mapInArrow(fold, IN_SPARK), tasks, marks)
        if not kept.for_more:
            outcomes.unpersist()
    broadcast.unpersist()
    return featurized, outcomes if kept.for_more else None


def divide(spark: SparkSession, dealt: pa.Table) -> DataFrame:
    """A partition for each chunk, which its task reads in batches of `maxRecordsPerBatch` rows.

    Spark would make a partition of each batch, too, and so a task, which ends with statistics of 13 MB.
    """
    rows_of_a_batch = str(spark.conf.get(_ROWS_OF_A_BATCH))
    spark.conf.set(_ROWS_OF_A_BATCH, len(dealt))
    try:
        return spark.createDataFrame(dealt)
    finally:
        spark.conf.set(_ROWS_OF_A_BATCH, rows_of_a_batch)


def task_count(pictures: int) -> int:
    """The number of tasks for so many pictures."""
    low, high = _PICTURES_PER_TASK
    return math.ceil(pictures / min(max(pictures // _TASKS, low), high))


def _save(outcomes: DataFrame, save_to: str) -> None:
    label = element_at(split("path", "/"), -2).alias("label")  # as schema.label_of
    accepted = outcomes.where(col("reason").isNull()).select("path", label, "features")
    unfinished.add(save_to)
    try:
        accepted.write.parquet(spark_uri(save_to))
    except AnalysisException as error:
        if error.getCondition() == "PATH_ALREADY_EXISTS":
            unfinished.discard(save_to)
            raise SettingsError(f"fit.save_features: {save_to} is there already; name a new folder") from error
        raise
