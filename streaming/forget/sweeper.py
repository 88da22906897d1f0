"""Finds and removes rows of forgotten pictures in many files: in this process while that is quick, by Spark after that.

Running it again finds the rows that are left.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from pyspark.sql import SparkSession

from conf.aws.connection import S3Connection
from conf.errors import NotFoundError
from conf.settings import Settings
from conf.spark.progress import Progress
from conf.spark.session import is_submitted, spark_session
from streaming.forget.by_spark import visit_by_spark
from streaming.forget.files import File, Found, Work, visit
from streaming.lease.denylist import Denylist
from streaming.output.rows import count_rows, erase_in, forgotten_beside, forgotten_paths
from streaming.storage.ahead import ahead
from streaming.storage.folder import Folder, identity_of
from streaming.storage.locations import open_folder

# As long as Spark takes to start and to have its first workers, so that no run takes twice as long as the better way.
# One core searches 7,000 files of 100 rows in that time; how many there are is known before, but not what they hold.
SECONDS_HERE = 10.0
_AT_ONCE = 4  # each holds a file, which may be one of an export, and its successor: 1 GB together at 128 MiB a file


class Sweeper:
    """Visits files, sweep after sweep, as a context: on leaving it, the Spark session ends, if one was needed."""

    def __init__(self, settings: Settings, connection: S3Connection, progress: Progress) -> None:
        self._settings = settings
        self._connection = connection
        self._progress = progress
        self._seconds_left = 0.0 if is_submitted() else SECONDS_HERE
        self._spark: SparkSession | None = None
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    def visit(self, files: Sequence[File], work: Work, unit: str) -> list[Found]:
        """The findings of `work` in `files`, in their order; `unit` names in the bar what is counted.

        Raises:
            OutputError: a file is damaged; the message names it.
        """
        waiting, found = deque(files), list[Found]()
        if waiting and self._seconds_left > 0:
            found += self._visit_here(waiting, work, unit)
        if waiting:
            found += self._visit_by_spark(waiting, work, unit)
        return found

    def _visit_here(self, waiting: deque[File], work: Work, unit: str) -> list[Found]:
        """Visit files in this process, and take them out of `waiting`, while seconds are left for that."""
        started, total = time.monotonic(), len(waiting)
        folders = {root: open_folder(root, self._connection) for root in {file.root for file in waiting}}

        def in_time() -> Iterator[File]:
            while waiting and time.monotonic() < started + self._seconds_left:
                yield waiting.popleft()

        with self._progress(total, unit, lambda: total - len(waiting)):
            visited = ahead(lambda file: visit(work, folders[file.root], file), in_time(), _AT_ONCE)
            found = [one for _, one in visited if one]
        self._seconds_left -= time.monotonic() - started
        return found

    def _visit_by_spark(self, files: Sequence[File], work: Work, unit: str) -> list[Found]:
        if self._spark is None:
            self._spark = self._opened.enter_context(spark_session("picture-features forget", self._settings, {}))
        done = self._spark.sparkContext.accumulator(0)
        with self._progress(len(files), unit, lambda: done.value):
            return visit_by_spark(self._spark, files, work, self._connection, done)


def find(sweeper: Sweeper, files: Sequence[File], denylist: Denylist, watched: Denylist) -> list[Found]:
    """The findings in those `files` that name watched pictures; only those on the denylist give identities.

    `watched` has the denylist's pictures, and those that are only looked for.
    """

    def look(folder: Folder, file: File) -> Found | None:
        try:
            data = folder.read(file.name)
        except NotFoundError:  # the stream has folded it or taken it in, and honoured the denylist
            return None
        paths, beside = forgotten_paths(file.name, data, watched), forgotten_beside(file.name, data, watched)
        if not (paths or beside):
            return None
        named = {*paths, *beside}
        forgotten = {path for path in named if denylist.is_forgotten(path)}
        hits = {hit for path in named for hit in watched.hits(path)}
        rows = sum(path in forgotten for path in paths)
        return Found(file, rows, len(data), sorted(map(identity_of, forgotten)), sorted(hits))

    return sweeper.visit(files, look, "files searched")


def erase(sweeper: Sweeper, files: Sequence[File], denylist: Denylist) -> None:
    """Replace each of `files` by one without the rows of forgotten pictures."""

    def exchange(folder: Folder, file: File) -> None:
        erase_in(folder, file.name, denylist)

    sweeper.visit(files, exchange, "files rewritten")


def measure_files(sweeper: Sweeper, files: Sequence[File]) -> list[Found]:
    """The number of rows and bytes in each of `files` now."""

    def look(folder: Folder, file: File) -> Found | None:
        try:
            data = folder.read(file.name)
        except NotFoundError:  # deleted by hand
            return None
        return Found(file, count_rows(file.name, data), len(data))

    return sweeper.visit(files, look, "files counted")
