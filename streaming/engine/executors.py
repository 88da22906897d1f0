"""Spreads the pictures of a micro-batch over Spark's executors, and collects their outcomes in order."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from conf.spark.tasks import is_retry
from conf.spark.ticks import Ticks
from streaming.engine.serving import ServedModel
from streaming.features.schema import OUTCOMES
from streaming.features.workers import deal, featurize_with

_SLICES_PER_SLOT = 2
_MOST_IN_A_SLICE = 500  # what a worker holds of outcomes at once, and featurizes again if it dies
_DEDICATED = "featurize"


class Executors:
    """Featurizes on all executors of a session; `ticks` counts the pictures as they are done."""

    def __init__(self, spark: SparkSession, ticks: Ticks) -> None:
        self._spark = spark
        self._ticks = ticks

    def dedicate_thread(self) -> None:
        """Use the calling thread for featurizing only, so that Spark's small jobs need not wait for its tasks."""
        self._spark.sparkContext.setLocalProperty("spark.scheduler.pool", _DEDICATED)
        self._spark.sparkContext.addJobTag(_DEDICATED)

    def cancel(self) -> None:
        """Cancel the jobs of the dedicated threads, which get an error of Spark's."""
        self._spark.sparkContext.cancelJobsWithTag(_DEDICATED)

    def warm_up(self, model: ServedModel) -> None:
        """Start a worker in each slot of the executors that are there, and load the model in it."""
        slots, to_outcomes = self._spark.sparkContext.defaultParallelism, featurize_with(model.recipe, is_retry)

        def load(_: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
            return to_outcomes([])

        self._spark.range(0, slots, 1, slots).mapInArrow(load, from_arrow_schema(OUTCOMES)).toArrow()

    def featurize(self, pictures: pa.Table, model: ServedModel) -> pa.Table:
        """The outcomes of `pictures`, `schema.OUTCOMES`, in their order.

        Spark retries a slice whose worker or executor died; after that, each of its pictures is featurized in an
        isolated process of its own.
        """
        if not len(pictures):
            return OUTCOMES.empty_table()
        slots = self._spark.sparkContext.defaultParallelism
        dealt = deal(pictures, max(slots * _SLICES_PER_SLOT, math.ceil(len(pictures) / _MOST_IN_A_SLICE)))
        frame = self._spark.createDataFrame(dealt)
        to_outcomes = featurize_with(model.recipe, is_retry, self._ticks.tick)
        outcomes = frame.mapInArrow(to_outcomes, from_arrow_schema(OUTCOMES)).toArrow().cast(OUTCOMES)
        return outcomes.take(pc.index_in(pictures.column("path"), outcomes.column("path")))
