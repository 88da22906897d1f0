"""Waiting for what another process does: all one can do is to look again."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool], seconds: float = 60, every: float = 0.02, said: Callable[[], str] = str
) -> None:
    """Return when a condition holds, and fail with what was `said` if it does not within so many seconds."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"waited in vain {said()}"
        time.sleep(every)
