"""Featurizing on Spark's executors.

It owns how the pictures of a micro-batch are spread over the executors and come back; it must not know of manifests or
pixels.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from conf.tasks import is_retry
from streaming.features.dealing import deal
from streaming.features.schema import OUTCOMES
from streaming.features.workers import featurize_with
from streaming.models import ServedModel

_SLICES_PER_SLOT = 2
_DEDICATED = "featurize"


class Executors:
    """Featurizes with all that the session has."""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark

    def dedicate_thread(self) -> None:
        """Let the calling thread do nothing but featurize: Spark's small jobs need not wait for its tasks to begin."""
        self._spark.sparkContext.setLocalProperty("spark.scheduler.pool", _DEDICATED)
        self._spark.sparkContext.addJobTag(_DEDICATED)

    def cancel(self) -> None:
        """Give up what the dedicated threads are doing; they get an error of Spark's."""
        self._spark.sparkContext.cancelJobsWithTag(_DEDICATED)

    def featurize(self, pictures: pa.Table, model: ServedModel) -> pa.Table:
        """The outcomes of `pictures`, `schema.OUTCOMES`, in their order.

        A slice whose worker or executor died is tried again by Spark, then picture by picture in expendable processes.
        """
        if not len(pictures):
            return OUTCOMES.empty_table()
        slices = self._spark.sparkContext.defaultParallelism * _SLICES_PER_SLOT
        dealt = deal(pictures, slices)
        frame = self._spark.createDataFrame(dealt)
        to_outcomes = featurize_with(model.recipe, is_retry)
        outcomes = frame.mapInArrow(to_outcomes, from_arrow_schema(OUTCOMES)).toArrow().cast(OUTCOMES)
        places = pc.index_in(pictures.column("path"), outcomes.column("path"))
        return outcomes.take(places)
