"""The stages of a fit, timed for the report and the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

_logger = logging.getLogger(__name__)


class Stages:
    """Names each stage in the log as it begins, and keeps its duration for the report."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A stage for this context."""
        _logger.info("%s", name)
        with self.timed(name):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """The same of one that names itself."""
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
        _logger.debug("%s took %.1fs", name, self.seconds[name])
