"""What a person at a terminal sees of the work."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.logs import logging_to
from conf.settings import LogSettings, SparkSettings
from conf.spark import progress
from conf.spark.ticks import Ticks, ticking


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


def test_a_bar_moves_while_a_task_runs(
    spark: SparkSession, wait_for: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With each picture, where the workers are on this machine and somebody looks."""
    monkeypatch.setattr(sys, "stderr", _Terminal())
    os.mkfifo(barrier := str(tmp_path / "barrier"))
    with ticking(SparkSettings(master="local[1]")) as ticks, ThreadPoolExecutor(1) as driver:

        def work(number: int) -> None:
            ticks.tick()
            if number == 5:
                Path(barrier).read_bytes()  # waits for a writer

        task = driver.submit(spark.sparkContext.parallelize(range(10), 1).foreach, work)
        wait_for(lambda: ticks.count(0, 10) == 6)
        assert not task.done()
        Path(barrier).write_bytes(b"")
        task.result()
        assert ticks.count(0, 10) == 10
        assert ticks.count(0, 4) == 4  # some were tried twice


def test_pictures_are_counted_only_for_a_terminal_and_never_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers on other machines tell of finished tasks alone."""
    with ticking(SparkSettings(master="local[1]")) as unseen:
        assert unseen == Ticks()
    monkeypatch.setattr(sys, "stderr", _Terminal())
    with ticking(SparkSettings(master=None)) as elsewhere:
        assert elsewhere == Ticks()
    elsewhere.tick()
    assert elsewhere.count(7, 10) == 7
    with ticking(SparkSettings(master="local[1]")) as ticks:
        pass
    ticks.tick()  # of a worker that outlives its driver


def test_nobody_sees_a_bar_without_a_terminal(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    """A log stays readable."""
    with progress.task_bar(spark), progress.bar(1, "files", lambda: 0):
        pass
    assert capsys.readouterr().err == ""


def test_the_level_of_the_log_holds_beside_a_bar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    settings = LogSettings(level="warning", folder=str(tmp_path), format="text")
    with logging_to(settings, "test"), progress.bar(3, "pictures", lambda: 1):
        logging.getLogger("streaming").info("quiet")
        logging.getLogger("streaming").warning("loud")
    assert "loud" in terminal.getvalue()
    assert "quiet" not in terminal.getvalue()
