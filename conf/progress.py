"""The progress bar of what runs on executors.

It owns how a person sees work advance; it must not know what the work is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from pyspark.accumulators import Accumulator
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

_REFRESH_SECONDS = 0.5

Progress = Callable[[int, str, Accumulator[int]], AbstractContextManager[None]]
"""Called with how many there are to do, of what, and a counter of those done; entered while they are worked on."""


@contextmanager
def bar(total: int, unit: str, done: Accumulator[int]) -> Iterator[None]:
    """A bar that follows `done` while the executors work; nothing where nobody sees it."""
    leave = threading.Event()
    with tqdm(total=total, unit=f" {unit}", disable=None, dynamic_ncols=True) as shown, logging_redirect_tqdm():

        def follow() -> None:
            while not leave.wait(_REFRESH_SECONDS):
                shown.update(done.value - shown.n)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            leave.set()
            thread.join()
            shown.update(done.value - shown.n)
