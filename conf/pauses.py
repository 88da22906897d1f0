"""How long to wait after one failure after another.

It owns the rule, which is the same wherever something is tried again; it must not know what failed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

LONGEST_PAUSE = 60.0


def pauses(first: float = 1.0, longest: float = LONGEST_PAUSE) -> Iterator[float]:
    """Seconds, doubled each time up to `longest`, less up to half, so that many do not come back at once."""
    seconds = first
    while True:
        yield seconds * random.uniform(0.5, 1)  # noqa: S311 # jitter is no secret
        seconds = min(2 * seconds, longest)
