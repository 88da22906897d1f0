"""Progress bars for work in this process or on the executors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

if TYPE_CHECKING:  # a replay that finds nothing new ends without Spark
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

_REFRESH_SECONDS = 0.5

Progress = Callable[[int, str, Callable[[], int]], AbstractContextManager[None]]
"""Called with a total, its unit, and what tells how many are done; the context lasts as long as the work."""


@contextmanager
def bar(total: int, unit: str, done: Callable[[], int]) -> Iterator[None]:
    """A bar that follows `done` while others work; nothing unless stderr is a terminal."""
    with _following(unit, lambda: (done(), total)):
        yield


@contextmanager
def task_bar(spark: SparkSession) -> Iterator[None]:
    """A bar of the tasks of this session, for work that only Spark can count; nothing unless stderr is a terminal.

    Spark's own bar cannot be used: it writes to the stderr of the JVM, which is a file.
    """
    with _following("tasks", lambda: _tasks(spark.sparkContext)):
        yield


def _tasks(context: SparkContext) -> tuple[int, int]:
    """The number of tasks that are done, and of all tasks known so far."""
    tracker = context.statusTracker()
    done = known = 0
    for job in filter(None, map(tracker.getJobInfo, tracker.getJobIdsForGroup())):
        for stage in filter(None, map(tracker.getStageInfo, job.stageIds)):
            done += stage.numCompletedTasks
            # A finished job has skipped the stages whose results existed already.
            known += stage.numTasks if job.status == "RUNNING" else stage.numCompletedTasks
    return done, known


@contextmanager
def _following(unit: str, look: Callable[[], tuple[int, int]]) -> Iterator[None]:
    """A bar that follows `look`, which returns the number done and the total."""
    leave = threading.Event()
    shown = tqdm(total=look()[1], unit=f" {unit}", disable=None, dynamic_ncols=True, miniters=1)
    if shown.disable:
        yield
        return
    with shown, logging_redirect_tqdm():

        def show() -> None:
            done, shown.total = look()
            if not shown.update(done - shown.n):
                shown.refresh()  # the clock goes on

        def follow() -> None:
            while not leave.wait(_REFRESH_SECONDS):
                show()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            leave.set()
            thread.join()
        show()
