"""One query after another: each checkpoint epoch has its own, and so has each new attempt after a failure.

It owns when a query ends and what comes after it; it must not know what is done in a micro-batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from conf.errors import AppError, TransientError
from conf.pauses import pauses
from conf.session import explain_failure
from streaming.discovery import DiscoveryThread
from streaming.epochs import Epochs
from streaming.features.stored import Folder
from streaming.lease import Lease
from streaming.manifest_writer import ManifestWriter
from streaming.microbatch import MicroBatches
from streaming.query import raise_failure, running_query

_WATCH_SECONDS = 0.2
_DRAIN_LOOK_SECONDS = 1.0  # on S3 each look for the mark is a paid request

_logger = logging.getLogger(__name__)


class EpochLoop:
    """Runs queries until told to stop.

    Args:
        output: has the manifest log.
        epochs: give each query its checkpoint.
        writer: of the log.
        lease: has to be held, and may ask to stop.
        stop: ends the loop after the micro-batch in work.
        limit: micro-batches to an epoch.
        new_batches: makes what each query calls.
        on_look: told several times a second whether a micro-batch is in work.
    """

    def __init__(
        self,
        output: Folder,
        epochs: Epochs,
        writer: ManifestWriter,
        lease: Lease,
        stop: threading.Event,
        limit: int,
        new_batches: Callable[[], MicroBatches],
        on_look: Callable[[bool], None],
    ) -> None:
        self._output = output
        self._epochs = epochs
        self._writer = writer
        self._lease = lease
        self._stop = stop
        self._limit = limit
        self._new_batches = new_batches
        self._on_look = on_look
        self._next_drain_look = 0.0

    def run(self, spark: SparkSession, discovery: DiscoveryThread | None, *, available_now: bool) -> None:
        """Return when told to stop or, with `available_now`, when nothing is left.

        Raises:
            AppError: trying again would not help.
        """
        full = self._epochs.is_full(self._limit)
        if lost := self._epochs.lost():
            _logger.warning("features of %d manifests were deleted, like %s: they are made anew", len(lost), lost[0])
            full = True
        rests = pauses()
        while True:
            batches = self._new_batches()
            try:
                if full:
                    self._writer.retries.settle()  # while their manifests are in the log
                    self._epochs.turn()
                    self._writer.forget_folded()
                    full = False
                self._run_query(spark, batches, discovery, available_now=available_now)
                self._writer.retries.settle()
            except (AppError, PySparkException, Py4JError) as error:
                if batches.finished:
                    rests = pauses()
                if self._wait_out(error, discovery, next(rests)):
                    return
            else:
                full = batches.finished >= self._limit
                if not full:
                    return

    def _wait_out(self, error: Exception, discovery: DiscoveryThread | None, seconds: float) -> bool:
        """Rest after a failure that may pass; whether the job was told to stop meanwhile.

        Raises:
            Exception: the failure, if trying again would not help.
        """
        explained = explain_failure(error) or error
        if not isinstance(explained, TransientError):
            raise error
        if self._told_to_stop():
            _logger.warning("%s; nothing is lost, the next start goes on", explained)
            return True
        if discovery and discovery.failure:
            raise error
        _logger.warning("%s; nothing is lost, trying again in %.0fs", explained, seconds)
        _logger.debug("what failed", exc_info=error)
        give_up = time.monotonic() + seconds
        while not self._told_to_stop() and time.monotonic() < give_up:
            self._stop.wait(_WATCH_SECONDS)
        return self._told_to_stop()

    def _run_query(
        self, spark: SparkSession, batches: MicroBatches, discovery: DiscoveryThread | None, *, available_now: bool
    ) -> None:
        """One query until it ends, fails, or has to."""
        with running_query(spark, self._output, self._epochs.uri, batches, available_now=available_now) as query:
            while query.isActive and batches.finished < self._limit and not self._must_stop(discovery):
                self._on_look(batches.busy)
                self._stop.wait(_WATCH_SECONDS)
            failure = query.exception()  # before it is stopped in the middle of a batch, which it takes for one
        raise_failure(failure, batches)

    def _must_stop(self, discovery: DiscoveryThread | None) -> bool:
        if self._told_to_stop():
            return True
        self._lease.check()
        if discovery and discovery.failure:
            raise discovery.failure
        return False

    def _told_to_stop(self) -> bool:
        if not self._stop.is_set() and time.monotonic() >= self._next_drain_look:
            self._next_drain_look = time.monotonic() + _DRAIN_LOOK_SECONDS
            if self._lease.drain_requested():
                self._stop.set()
        return self._stop.is_set()
