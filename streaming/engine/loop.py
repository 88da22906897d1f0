"""Runs one query after another: for each checkpoint epoch, for each attempt after a failure, and after a rest on S3.

Transient failures are retried with exponential backoff; a permanent failure ends the job. A query looks for a manifest
twice a second, and on S3 each look is a paid request, together 24 USD a month. So there it ends after a minute without
work, and the next manifest, which this process appends, begins another one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from conf.backoff import pauses
from conf.errors import AppError, TransientError
from conf.plural import plural
from conf.spark.failures import explain_failure
from streaming.discovery.by_listing import DiscoveryThread
from streaming.engine.checkpoint import Epochs
from streaming.engine.microbatch import MicroBatches
from streaming.engine.query import raise_failure, running_query
from streaming.lease.tenure import Tenure
from streaming.output.inbox import Inbox
from streaming.output.manifest_log import ManifestLog
from streaming.output.tables import unfinished
from streaming.storage.locations import is_on_s3

_WATCH_SECONDS = 0.2
_REST_SECONDS = 60.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Following:
    """The companions of the queries.

    Attributes:
        discovery: appends manifests.
        on_look: told several times a second whether a micro-batch is running.
    """

    discovery: DiscoveryThread
    on_look: Callable[[bool], None]


class EpochLoop:
    """Runs queries until told to stop, each of `limit` micro-batches at most; retries are closed between two.

    `new_batches` makes the function that a query calls for each micro-batch.
    """

    def __init__(
        self,
        tenure: Tenure,
        epochs: Epochs,
        log: ManifestLog,
        inbox: Inbox,
        limit: int,
        new_batches: Callable[[], MicroBatches],
    ) -> None:
        self._tenure = tenure
        self._epochs = epochs
        self._log = log
        self._inbox = inbox
        self._limit = limit
        self._new_batches = new_batches

    def run(self, spark: SparkSession, following: Following | None) -> None:
        """Return when told to stop or, if nothing is followed, when nothing is left.

        Raises:
            AppError: a permanent failure.
        """
        full = False
        if lost := self._epochs.lost():
            _logger.warning(
                "features of %s are missing (e.g. of %s); recomputing", plural(len(lost), "manifest"), lost[0]
            )
            full = True
        rests = pauses()
        while True:
            batches = self._new_batches()
            try:
                if full or self._epochs.is_full(self._limit):
                    self._inbox.close_retries()  # while their manifests are in the log
                    self._epochs.turn()
                    self._log.forget_folded()
                    full = False
                rests_at = self._run_query(spark, batches, following)
                self._inbox.close_retries()
                goes_on = rests_at is not None and self._rest(rests_at, following)
            except (AppError, PySparkException, Py4JError) as error:
                if batches.finished:
                    rests = pauses()
                if self._wait_out(error, following, next(rests)):
                    return
            else:
                rests = pauses()
                full = batches.finished >= self._limit
                if not full and not goes_on:
                    return

    def _wait_out(self, error: Exception, following: Following | None, seconds: float) -> bool:
        """Pause after a transient failure; returns whether the job was told to stop meanwhile.

        Raises:
            Exception: the failure, if it is permanent.
        """
        explained = explain_failure(error) or error
        if not isinstance(explained, TransientError):
            raise explained  # `status` tells this, not what PySpark and py4j wrap it in
        if self._tenure.should_stop():
            _logger.warning("%s; nothing is lost, the next start goes on", explained)
            return True
        if following and following.discovery.failure:
            raise error
        _logger.warning("%s; nothing is lost, trying again in %.0fs", explained, seconds)
        _logger.debug("what failed", exc_info=error)
        give_up = time.monotonic() + seconds
        while not self._tenure.should_stop() and time.monotonic() < give_up:
            self._tenure.stop.wait(_WATCH_SECONDS)
        return self._tenure.should_stop()

    def _run_query(self, spark: SparkSession, batches: MicroBatches, following: Following | None) -> int | None:
        """Run one query until it ends, fails, or must be stopped; or may rest: then, how many manifests there were."""
        output, checkpoint = self._tenure.output, self._epochs.uri
        rests_at, idle = None, _Idle(self._log, batches)
        with running_query(spark, output, checkpoint, batches, available_now=following is None) as query:
            while query.isActive and batches.finished < self._limit and not self._must_stop(following):
                if following:
                    following.on_look(batches.busy)
                    rests_at = idle.may_rest()
                    if rests_at is not None:
                        break
                self._tenure.stop.wait(_WATCH_SECONDS)
            failure = query.exception()  # before the query is stopped in a batch, which it would report as a failure
        raise_failure(failure, batches)
        return rests_at

    def _rest(self, at: int, following: Following | None) -> bool:
        """Wait until a manifest is added to the log that had so many; False if the job must stop before."""
        _logger.debug("no query until there is a manifest")
        looked = time.monotonic()
        while self._log.added == at:
            if self._must_stop(following):
                return False
            if following:
                following.on_look(False)
            if time.monotonic() >= looked + _REST_SECONDS:
                if unfinished(self._log.output):  # a former holder of the lease, paused until now, has appended one
                    return True
                looked = time.monotonic()
            self._tenure.stop.wait(_WATCH_SECONDS)
        return True

    def _must_stop(self, following: Following | None) -> bool:
        if self._tenure.should_stop():
            return True
        self._tenure.check()
        if following and following.discovery.failure:
            raise following.discovery.failure
        return False


class _Idle:
    """Tells that a query has had no work for so long that it may rest."""

    def __init__(self, log: ManifestLog, batches: MicroBatches) -> None:
        self._log = log
        self._batches = batches
        self._seen = (-1, 0)
        self._since = 0.0

    def may_rest(self) -> int | None:
        """How many manifests were added to the log when this was found; None if the query may not rest."""
        now, seen = time.monotonic(), (self._log.added, self._batches.finished)
        if self._batches.busy or seen != self._seen:
            self._seen, self._since = seen, now
        if now < self._since + _REST_SECONDS or not is_on_s3(self._log.output.root):
            return None
        self._since = now
        added, _ = seen
        return None if unfinished(self._log.output) else added
