"""Finds pictures by S3's event notifications, which come through a queue.

A message is deleted only after the manifest with its pictures is durable: after a kill it comes again, which changes
nothing.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

from conf.backoff import pauses
from conf.errors import AlreadyExistsError, SettingsError, TransientError
from streaming.discovery.by_listing import ListingDiscoverer, Look
from streaming.discovery.drain import Drain
from streaming.discovery.messages import Batch
from streaming.output import manifests
from streaming.output.inbox import Inbox
from streaming.output.manifest_log import ManifestLog
from streaming.output.places import Input

if TYPE_CHECKING:  # botocore is beneath it
    from streaming.discovery.sqs import Queue

_IDLE_SECONDS = 2  # the longest that a request may wait for a message, because stopping waits for the request
_BACKLOG_SECONDS = 1  # the shortest interval while there is a backlog, which small manifests would slow down
_SHORT_PAUSE = 0.1
_FIRST = 1  # one message that tells of something new is enough to start Spark for

_logger = logging.getLogger(__name__)


def check_interval(interval: timedelta, queue: Queue) -> None:
    """Refuse an interval during which messages would come again while their manifest is still filling.

    Raises:
        SettingsError: it is more than half of the queue's visibility timeout.
        StorageError: the queue cannot be used.
    """
    visibility = queue.visibility()
    if interval > visibility / 2:
        raise SettingsError(
            f"stream.interval: {interval.total_seconds():g}s is more than half of the queue's visibility timeout of "
            f"{visibility.total_seconds():g}s; give a shorter --interval, or set the timeout to "
            f"{math.ceil(2 * interval.total_seconds())}s or more"
        )


class EventsDiscoverer:
    """Finds pictures by following a queue, after one listing of the input, which shares log and inbox.

    The output of the log records that the input was listed. `on_look` is called after each look into the queue.
    """

    def __init__(
        self,
        source: Input,
        drain: Drain,
        listing: ListingDiscoverer,
        log: ManifestLog,
        inbox: Inbox,
        on_look: Callable[[Look], None] = lambda look: None,
    ) -> None:
        self._source = source
        self._drain = drain
        self._queue = drain.queue
        self._sorter = drain.sorter
        self._listing = listing
        self._log = log
        self._inbox = inbox
        self._on_look = on_look
        self._held: list[Batch] = []

    def follow(self, max_pictures: int, interval: timedelta, leave: threading.Event) -> None:
        """Turn messages into manifests until `leave` is set. Transient failures are retried with backoff."""
        outage = _Outage(self._queue.url)
        listed = False
        while not leave.is_set():
            try:
                if not listed:
                    self._list_once(max_pictures, leave)
                    listed = True
                self._inbox.take_in_if_due(max_pictures)
                with self._log.writing():
                    pass  # what cannot be kept is not received: each time counts until SQS gives a message up
                batch = self._collect(max_pictures, interval, leave)
                self._finish(batch, max_pictures)
            except TransientError as error:
                outage.wait(error, leave)
            else:
                outage.end()

    def has_new(self) -> bool:
        """Whether the queue tells of a new picture, one is requested, or the input has pictures and was never listed.

        Messages that tell of nothing new are deleted. Those that do are held for `catch_up`.
        """
        if not self._inbox.is_empty():
            return True
        if not self._is_listed() and next(self._source.pictures(lambda path, why: None), None):
            return True
        for batch in self._drain.batches(_FIRST):
            if self._log.unknown(list(batch.pictures.values())):
                self._held = [batch]
                return True
            self._finish(batch, _FIRST)
        return False

    def explain_none(self) -> str:
        """The reason why `has_new` found nothing."""
        return f"{self._queue.url} tells of no picture that is not in {self._log.output.root} already"

    def catch_up(self, max_pictures: int) -> Look:
        """Turn all messages that the queue has into manifests, of at most `max_pictures` each."""
        found = self._list_once(max_pictures)
        found += self._inbox.take_in_if_due(max_pictures)
        for batch in chain(self._held, self._drain.batches(max_pictures)):
            found += self._finish(batch, max_pictures)
        return Look(0, found, 0)

    def _finish(self, batch: Batch, max_pictures: int) -> int:
        """Write what is new in a batch into manifests, and only then delete its messages; returns how many are new."""
        found = self._log.append_unknown(list(batch.pictures.values()), max_pictures)
        self._listing.left_out.add_ignored(batch.ignored)
        self._queue.delete(batch.messages)
        self._on_look(Look(0, found, 0))
        return found

    @property
    def _mark(self) -> str:
        """The file that says that the input was listed."""
        digest = hashlib.sha256(f"{self._source.root}\n{self._queue.url}".encode()).hexdigest()
        return f"{manifests.LOG_FOLDER}/_listed-{digest[:8]}.txt"

    def _is_listed(self) -> bool:
        return self._log.output.exists(self._mark)

    def _list_once(self, max_pictures: int, leave: threading.Event | None = None) -> int:
        """List the input unless this queue is followed since a complete listing; its events wait meanwhile.

        Returns:
            The number of new pictures.
        """
        if self._is_listed():
            return 0
        _logger.info("listing %s once, before following the queue", self._source.root)
        look = self._listing.look(max_pictures, leave)
        if not look.whole:
            return look.found
        _logger.info("found %d new pictures of %d; following %s", look.found, look.listed, self._queue.url)
        text = (
            f"{self._source.root} was listed by {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; later pictures come through\n"
            f"{self._queue.url}\nDelete this file to have it listed once more.\n"
        )
        with suppress(AlreadyExistsError):  # a former holder listed it, too, and was paused
            self._log.output.create(self._mark, text.encode())
        return look.found

    def _collect(self, max_pictures: int, interval: timedelta, leave: threading.Event) -> Batch:
        """The messages that arrive within the interval after the first one; empty if none comes for a while."""
        batch = Batch()
        end = latest = math.inf
        more = False
        while not leave.is_set() and len(batch.messages) < max_pictures:
            left = (latest if more else end) - time.monotonic()
            if left < 0:
                break
            messages, more = self._queue.receive(max_pictures - len(batch.messages), min(left, _IDLE_SECONDS))
            if end == math.inf:
                if not messages:
                    break
                end = time.monotonic() + interval.total_seconds()
                latest = max(end, time.monotonic() + _BACKLOG_SECONDS)
            for message in messages:
                self._sorter.sort(message, batch)
            if not messages and left < 1:  # SQS waits for whole seconds only
                leave.wait(min(left, _SHORT_PAUSE))
        return batch


class _Outage:
    """A period in which the queue or the output fails: logged once at its beginning and once at its end."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._pauses: Iterator[float] | None = None

    def wait(self, error: TransientError, leave: threading.Event) -> None:
        """Pause after a failure, with exponential backoff."""
        if self._pauses is None:
            _logger.warning("cannot take events in, trying again until that succeeds: %s", error)
            self._pauses = pauses()
        leave.wait(next(self._pauses))

    def end(self) -> None:
        """End the outage, if there is one; call it after a success."""
        if self._pauses is not None:
            _logger.info("events of %s are taken in again", self._queue)
        self._pauses = None
