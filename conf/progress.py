"""The progress bar of what runs on executors.

It owns how a person sees work advance; it must not know what the work is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from pyspark import SparkContext
from pyspark.accumulators import Accumulator
from pyspark.sql import SparkSession
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

_REFRESH_SECONDS = 0.5

Progress = Callable[[int, str, Accumulator[int]], AbstractContextManager[None]]
"""Called with how many there are to do, of what, and a counter of those done; entered while they are worked on."""


@contextmanager
def bar(total: int, unit: str, done: Accumulator[int]) -> Iterator[None]:
    """A bar that follows `done` while the executors work; nothing where nobody sees it."""
    with _following(unit, lambda: (done.value, total)):
        yield


@contextmanager
def task_bar(spark: SparkSession) -> Iterator[None]:
    """A bar of the tasks of this session, for work that nobody but Spark can count; nothing where nobody sees it.

    Spark's own cannot be had: it writes to the stderr of the JVM, which is a file.
    """
    with _following("tasks", lambda: _tasks(spark.sparkContext)):
        yield


def _tasks(context: SparkContext) -> tuple[int, int]:
    """How many tasks are done, and how many are known."""
    tracker = context.statusTracker()
    done = known = 0
    for job in filter(None, map(tracker.getJobInfo, tracker.getJobIdsForGroup())):
        for stage in filter(None, map(tracker.getStageInfo, job.stageIds)):
            done += stage.numCompletedTasks
            # A finished job has skipped the stages whose outcome was there already.
            known += stage.numTasks if job.status == "RUNNING" else stage.numCompletedTasks
    return done, known


@contextmanager
def _following(unit: str, look: Callable[[], tuple[int, int]]) -> Iterator[None]:
    """A bar of what `look` returns: how many are done, and of how many."""
    leave = threading.Event()
    with tqdm(total=look()[1], unit=f" {unit}", disable=None, dynamic_ncols=True) as shown, logging_redirect_tqdm():
        if shown.disable:
            yield
            return

        def show() -> None:
            done, shown.total = look()
            shown.update(done - shown.n)

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
