"""Tells people that a service of AWS does not answer, while botocore still tries again: that may take two minutes."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

_EVERY_SECONDS = 30.0

_logger = logging.getLogger(__name__)


class SilenceWarning:
    """A handler of the event needs-retry of a client of boto3, whose threads may call it at once.

    https://docs.aws.amazon.com/boto3/latest/guide/events.html

    Args:
        endpoint: of the client.
        attempts: the number of attempts at a request.
        timeout: of each, in seconds.
    """

    def __init__(self, endpoint: str, attempts: int, timeout: float) -> None:
        self._endpoint = endpoint
        self._attempts = attempts
        self._timeout = timeout
        self._told_at: float | None = None
        self._lock = threading.Lock()

    def __call__(self, attempts: int, caught_exception: Exception | None, **_: Any) -> None:
        """Warn of an attempt that was not answered; the last one is an error, which somebody else tells."""
        if not _is_silence(caught_exception) or attempts >= self._attempts:
            return
        with self._lock:
            now = time.monotonic()
            if self._told_at is not None and now - self._told_at < _EVERY_SECONDS:
                return
            self._told_at = now
        _logger.warning(
            "%s has not answered for %.0fs; trying again (attempt %d of %d)",
            self._endpoint,
            self._timeout,
            attempts + 1,
            self._attempts,
        )


def _is_silence(error: Exception | None) -> bool:
    from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError  # noqa: PLC0415 - with the client

    return isinstance(error, (ConnectTimeoutError, ReadTimeoutError))
