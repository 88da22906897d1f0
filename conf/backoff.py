"""Exponential backoff with jitter: the pauses between retries, the same everywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator

LONGEST_PAUSE = 60.0


def pauses(first: float = 1.0, longest: float = LONGEST_PAUSE) -> Iterator[float]:
    """Pauses in seconds, doubled each time up to `longest`, with jitter of up to half, so that retries spread out."""
    seconds = first
    while True:
        yield seconds * random.uniform(0.5, 1)  # noqa: S311 # jitter is not a secret
        seconds = min(2 * seconds, longest)
