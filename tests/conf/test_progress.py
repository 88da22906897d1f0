"""What a person at a terminal sees of the work."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest
from pyspark.sql import SparkSession

from conf.spark import progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_tasks_of_spark_are_shown(
    spark: SparkSession, wait_for: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the session has done, in one bar."""
    monkeypatch.setattr(sys, "stderr", _Terminal())
    with progress.task_bar(spark):
        for _ in range(2):
            spark.sparkContext.parallelize(range(10), 3).count()
        wait_for(lambda: progress._tasks(spark.sparkContext) == (6, 6))
    assert isinstance(sys.stderr, _Terminal)
    assert "6/6" in sys.stderr.getvalue()
    assert "tasks" in sys.stderr.getvalue()


def test_nobody_sees_a_bar_without_a_terminal(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    """A log stays readable."""
    with progress.task_bar(spark), progress.bar(1, "files", lambda: 0):
        pass
    assert capsys.readouterr().err == ""
