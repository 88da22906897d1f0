"""Prefetches the features of one manifest ahead.

The executors begin with a manifest as soon as it is appended and they have finished the former one, while Spark records
that a micro-batch is done and plans the next one, which on S3 takes some fifteen requests one after the other; and with
the first one while Spark starts the query. Only the query decides what is committed: a prefetched result that is not
asked for is dropped, and one that does not match the request (pictures or model) is recomputed.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import pyarrow as pa

from streaming.engine.executors import Executors
from streaming.engine.serving import ModelSource, ServedModel
from streaming.output.manifest_log import ManifestLog

_CANCEL_SECONDS = 0.2

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeaturizedManifest:
    """The executors' result for a manifest.

    Attributes:
        pictures: `schema.PICTURES`.
        outcomes: `schema.OUTCOMES`, in the order of the pictures.
        model: the model of all outcomes.
        model_refused: whether a newer model cannot be used.
        started: when the work began, by the monotonic clock.
    """

    pictures: pa.Table
    outcomes: pa.Table
    model: ServedModel
    model_refused: bool
    started: float


class Prefetch:
    """Featurizes the requested manifest with the current model, and then prefetches the one that follows."""

    def __init__(self, executors: Executors, models: ModelSource, log: ManifestLog) -> None:
        self._executors = executors
        self._models = models
        self._log = log
        self._thread = ThreadPoolExecutor(1, "featurize", executors.dedicate_thread)
        self._under_way: Future[tuple[str, FeaturizedManifest] | None] | None = None
        self._wanted = threading.Event()

    def begin(self, manifest: str | None) -> None:
        """Begin with a manifest before it is requested.

        With None, wait until the workers have loaded the model, and begin with the next one that is appended.
        """
        model = self._models.current()
        if manifest:
            self._under_way = self._thread.submit(self._work_on, manifest, model)
        else:
            latest = self._log.latest()
            wait([self._thread.submit(self._executors.warm_up, model)])  # what fails there fails again, with a picture
            self._begin_next(latest, model)

    def featurize(self, manifest: str, pictures: pa.Table) -> FeaturizedManifest:
        """The outcomes of a manifest.

        When this returns, the prefetch of the one that follows has begun, or begins once that is appended.
        """
        model = self._models.current()
        ready = self._ready(manifest)
        if ready is None or ready.model != model or not ready.pictures.equals(pictures):
            ready = self._thread.submit(self._work, pictures, model).result()
        self._begin_next(manifest, model)
        return replace(ready, model_refused=self._models.refused)

    def close(self) -> None:
        """Cancel the prefetch that is running, if any."""
        self._give_up_waiting()
        while self._under_way and not wait([self._under_way], _CANCEL_SECONDS).done:
            self._executors.cancel()  # again, for work that had not begun the first time
        self._thread.shutdown()

    def _begin_next(self, manifest: str, model: ServedModel) -> None:
        self._wanted.clear()
        self._under_way = self._thread.submit(self._work_on_next, manifest, model)

    def _give_up_waiting(self) -> None:
        """End a wait for the next manifest, so that the thread is free."""
        self._wanted.set()
        self._log.wake()

    def _ready(self, manifest: str) -> FeaturizedManifest | None:
        if self._under_way is None:
            return None
        self._give_up_waiting()
        try:
            found = self._under_way.result()
        except Exception as error:  # noqa: BLE001 # the caller then featurizes itself, and handles what fails again
            _logger.debug("featurizing ahead failed: %s", error)
            return None
        return found[1] if found and found[0] == manifest else None

    def _work_on_next(self, manifest: str, model: ServedModel) -> tuple[str, FeaturizedManifest] | None:
        following = self._log.await_next_after(manifest, self._wanted.is_set)
        return self._work_on(following, model) if following else None

    def _work_on(self, manifest: str, model: ServedModel) -> tuple[str, FeaturizedManifest]:
        return manifest, self._work(self._log.read(manifest), model)

    def _work(self, pictures: pa.Table, model: ServedModel) -> FeaturizedManifest:
        started = time.monotonic()
        return FeaturizedManifest(pictures, self._executors.featurize(pictures, model), model, False, started)
