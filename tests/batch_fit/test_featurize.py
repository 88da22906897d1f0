"""The pass over the pictures: as many tasks as are meant, each of which reads its pictures in small batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import pyarrow as pa
from pyspark.sql import SparkSession

from batch_fit.featurize import divide, task_count
from batch_fit.job import _SPARK_PROPERTIES
from streaming.features.schema import as_table
from streaming.features.workers import deal
from streaming.storage.folder import StoredPicture


def test_a_task_has_all_pictures_that_are_dealt_to_it(spark: SparkSession) -> None:
    """However many they are; each ends with statistics of 13 MB, and holds the features of a batch at a time."""
    for key, value in _SPARK_PROPERTIES.items():
        spark.conf.set(key, value)
    pictures = [StoredPicture(f"/in/{number}.jpg", 1000, datetime.now(UTC)) for number in range(20_000)]

    def measure(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        lengths = [*map(len, batches)]
        yield pa.RecordBatch.from_pydict({"pictures": [sum(lengths)], "batch": [max(lengths)]})

    frame = divide(spark, deal(as_table(pictures), task_count(len(pictures))))
    tasks = frame.mapInArrow(measure, "pictures long, batch long").toArrow().to_pydict()
    assert len(tasks["pictures"]) == task_count(20_000) < 20_000 / 250
    assert sum(tasks["pictures"]) == 20_000
    assert max(tasks["batch"]) == 250
