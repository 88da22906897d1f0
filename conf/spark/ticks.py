"""Counts what workers have done while their tasks run, for a bar that moves with each picture.

Spark tells the driver of a task when it ends, and a task has hundreds of pictures. So workers on this machine add a
byte to a file for each picture, and the length of the file is their number.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # workers do not need pydantic, which takes memory in each
    from conf.settings import SparkSettings


@dataclass(frozen=True)
class Ticks:
    """A counter, which is sent to the workers; without a file it counts nothing."""

    file: str | None = None

    def tick(self) -> None:
        """Count one more, in a worker. It costs microseconds, and never fails."""
        if self.file:
            with suppress(OSError):  # the driver has ended, or the disk is full
                os.write(_opened(self.file), b".")

    def count(self, finished: int, total: int) -> int:
        """The number of those that are done: `finished`, or more, but at most `total`, as tasks are tried again."""
        return max(finished, min(os.path.getsize(self.file), total)) if self.file else finished


@lru_cache(maxsize=1)
def _opened(file: str) -> int:
    return os.open(file, os.O_WRONLY | os.O_APPEND)


@contextmanager
def ticking(spark: SparkSettings) -> Iterator[Ticks]:
    """A counter for this context. It counts where the workers are on this machine and a terminal shows the bar."""
    if not (sys.stderr.isatty() and (spark.master or "").startswith("local")):
        yield Ticks()
        return
    with NamedTemporaryFile(prefix="picture-features-") as file:
        yield Ticks(file.name)
