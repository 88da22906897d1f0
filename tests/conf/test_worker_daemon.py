"""What the Python workers of a local Spark find when they start."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from zipimport import zipimporter

from pyspark.sql import SparkSession


def _look(_: Iterable[int]) -> Iterator[tuple[str, int, bool]]:
    import pyspark  # noqa: PLC0415 - in the worker

    archives = sum(isinstance(finder, zipimporter) for finder in sys.path_importer_cache.values())
    yield str(pyspark.__file__), archives, "pandas" in sys.modules


def test_a_worker_imports_the_installed_pyspark_and_reads_no_archive_again(spark: SparkSession) -> None:
    import pyspark  # noqa: PLC0415 - as above

    found = spark.sparkContext.parallelize([0], 1).mapPartitions(_look).collect()
    assert found == [(str(pyspark.__file__), 0, False)]
