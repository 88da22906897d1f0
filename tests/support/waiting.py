"""Waiting for what another process does."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

_Found = TypeVar("_Found")
_LONGEST_PAUSE = 1.0


def wait_until(
    condition: Callable[[], _Found], seconds: float = 180, every: float = 0.02, said: Callable[[], str] = str
) -> _Found:
    """What a condition gives once it holds; fail with what was `said` if it does not within so many seconds.

    Looking, which may read a whole table from a store, takes a quarter of the time at most: others need the cores.
    """
    give_up = time.monotonic() + seconds
    began = time.monotonic()
    while not (found := condition()):
        looked = time.monotonic() - began
        assert time.monotonic() < give_up, f"waited in vain {said()}"
        time.sleep(max(every, min(3 * looked, _LONGEST_PAUSE)))
        began = time.monotonic()
    return found


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """What the workers of a run do one after the other, such as making what the next ones find."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
