"""The first signal drains, the second kills.

It owns the handlers of SIGINT and SIGTERM while Spark runs; it must not know what draining means.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_KILLED = 130

_logger = logging.getLogger(__name__)


@contextmanager
def drain_on_signal(stop: threading.Event) -> Iterator[None]:
    """Set `stop` at the first signal and end the process at the second.

    Enter it after the Spark session has started, which installs a handler of its own.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            # Nothing is lost: what was not committed is done again at the next start.
            os._exit(_KILLED)
        stop.set()
        name = signal.Signals(number).name
        _logger.info("%s: finishing the micro-batch in work, then stopping; a second signal stops at once", name)

    former = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
