"""Featurizing one manifest ahead.

It owns what the executors do while Spark writes down that a micro-batch is done and plans the next one, which on S3 are
some fifty requests one after the other. It must not know what is committed when: a result that nobody asks for is lost,
and one that does not fit what is asked for is made anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import pyarrow as pa

from streaming.executors import Executors
from streaming.models import ServedModel

_CANCEL_SECONDS = 0.2

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Featurized:
    """The work of the executors on a manifest.

    Attributes:
        pictures: `schema.PICTURES`.
        outcomes: `schema.OUTCOMES`, in the order of the pictures.
        model: what it was done with.
        started: when it was begun, by the monotonic clock.
    """

    pictures: pa.Table
    outcomes: pa.Table
    model: ServedModel
    started: float


class Ahead:
    """Featurizes what is asked for, and then what will be asked for next.

    Args:
        executors: do the work.
        read_next: the id and the pictures (`schema.PICTURES`) of the manifest that follows one; None if none does.
    """

    def __init__(self, executors: Executors, read_next: Callable[[str], tuple[str, pa.Table] | None]) -> None:
        self._executors = executors
        self._read_next = read_next
        self._thread = ThreadPoolExecutor(1, "featurize", executors.dedicate_thread)
        self._under_way: Future[tuple[str, Featurized] | None] | None = None

    def featurize(self, manifest: str, pictures: pa.Table, model: ServedModel) -> Featurized:
        """The outcomes of a manifest; work on the one that follows it has begun when this returns."""
        ready = self._ready(manifest)
        if ready is None or ready.model != model or not ready.pictures.equals(pictures):
            ready = self._thread.submit(self._work, pictures, model).result()
        self._under_way = self._thread.submit(self._work_on_next, manifest, model)
        return ready

    def close(self) -> None:
        """Give up what is under way."""
        while self._under_way and not wait([self._under_way], _CANCEL_SECONDS).done:
            self._executors.cancel()  # once more, if it had not begun
        self._thread.shutdown()

    def _ready(self, manifest: str) -> Featurized | None:
        if self._under_way is None:
            return None
        try:
            found = self._under_way.result()
        except Exception as error:  # noqa: BLE001 # whatever it was: it happens again where it is dealt with, or never
            _logger.debug("featurizing ahead failed: %s", error)
            return None
        return found[1] if found and found[0] == manifest else None

    def _work_on_next(self, manifest: str, model: ServedModel) -> tuple[str, Featurized] | None:
        following = self._read_next(manifest)
        return following and (following[0], self._work(following[1], model))

    def _work(self, pictures: pa.Table, model: ServedModel) -> Featurized:
        started = time.monotonic()
        return Featurized(pictures, self._executors.featurize(pictures, model), model, started)
