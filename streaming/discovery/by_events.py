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
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from conf.backoff import pauses
from conf.errors import AlreadyExistsError, SettingsError, TransientError
from streaming.discovery.by_listing import ListingDiscoverer, Look
from streaming.discovery.notifications import read_notification
from streaming.output import manifests
from streaming.output.inbox import Inbox
from streaming.output.manifest_log import ManifestLog
from streaming.output.places import Input
from streaming.storage.folder import StoredPicture

if TYPE_CHECKING:  # botocore is beneath it
    from streaming.discovery.sqs import Message, Queue

_IDLE_SECONDS = 2  # the longest that a request may wait for a message, because stopping waits for the request
_BACKLOG_SECONDS = 1  # the shortest interval while there is a backlog, which small manifests would slow down
_SHORT_PAUSE = 0.1
_REMEMBERED = 10_000

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


@dataclass
class _Batch:
    """Messages, to be deleted once their pictures are in manifests; the pictures by path; and the ignored paths."""

    messages: list[Message] = field(default_factory=list)
    pictures: dict[str, StoredPicture] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


class EventsDiscoverer:
    """Finds pictures by following a queue, after one listing of the input.

    Args:
        source: the input.
        queue: gets the notifications.
        listing: finds the pictures that were there before the queue was followed for the first time.
        log: gets the new pictures; shared with `listing`. Its output records that the input was listed.
        inbox: has requests and retries; shared with `listing`.
        on_look: called after each look into the queue.
    """

    def __init__(
        self,
        source: Input,
        queue: Queue,
        listing: ListingDiscoverer,
        log: ManifestLog,
        inbox: Inbox,
        on_look: Callable[[Look], None] = lambda look: None,
    ) -> None:
        self._source = source
        self._queue = queue
        self._listing = listing
        self._log = log
        self._inbox = inbox
        self._on_look = on_look
        self._reported: set[str] = set()

    def follow(self, max_pictures: int, interval: timedelta, leave: threading.Event) -> None:
        """Turn messages into manifests until `leave` is set. Transient failures are retried with backoff."""
        outage = _Outage(self._queue.url)
        listed = False
        while not leave.is_set():
            try:
                if not listed:
                    self._list_once(max_pictures)
                    listed = True
                self._inbox.take_in_if_due(max_pictures)
                batch = self._collect(max_pictures, interval, leave)
                self._log.append_unknown(list(batch.pictures.values()), max_pictures)
                self._listing.left_out.add_ignored(batch.ignored)
                self._queue.delete(batch.messages)
                self._on_look(Look(0, len(batch.pictures), 0, len(batch.ignored)))
            except TransientError as error:
                outage.wait(error, leave)
            else:
                outage.end()

    def _list_once(self, max_pictures: int) -> None:
        """List the input unless this queue is followed since a complete listing; its events wait meanwhile."""
        digest = hashlib.sha256(f"{self._source.root}\n{self._queue.url}".encode()).hexdigest()
        mark = f"{manifests.LOG_FOLDER}/_listed-{digest[:8]}.txt"
        if self._log.output.exists(mark):
            return
        _logger.info("listing %s once, before following the queue", self._source.root)
        look = self._listing.look(max_pictures)
        _logger.info("found %d new pictures of %d; following %s", look.found, look.listed, self._queue.url)
        text = (
            f"{self._source.root} was listed by {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; later pictures come through\n"
            f"{self._queue.url}\nDelete this file to have it listed once more.\n"
        )
        with suppress(AlreadyExistsError):  # a former holder listed it, too, and was paused
            self._log.output.create(mark, text.encode())

    def _collect(self, max_pictures: int, interval: timedelta, leave: threading.Event) -> _Batch:
        """The messages that arrive within the interval after the first one; empty if none comes for a while."""
        batch = _Batch()
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
                self._sort(message, batch)
            if not messages and left < 1:  # SQS waits for whole seconds only
                leave.wait(min(left, _SHORT_PAUSE))
        return batch

    def _sort(self, message: Message, batch: _Batch) -> None:
        said = read_notification(message.body, self._source.root)
        for picture in said.pictures:
            if self._source.takes(picture.path):
                batch.pictures[picture.path] = picture
            else:
                batch.ignored.append(picture.path)
        if said.problem:
            self._report(message, said.problem)
            return
        if said.test_of:
            _logger.info("the notifications of bucket %r reach the queue", said.test_of)
        batch.messages.append(message)

    def _report(self, message: Message, problem: str) -> None:
        """Warn that a message is left in the queue; only once, although it comes again and again."""
        if message.id in self._reported:
            return
        if len(self._reported) >= _REMEMBERED:
            self._reported.clear()
        self._reported.add(message.id)
        _logger.warning("message %s is left for the dead-letter queue: %s", message.id, problem)


class _Outage:
    """A period in which a queue fails: logged once at its beginning and once at its end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pauses: Iterator[float] | None = None

    def wait(self, error: TransientError, leave: threading.Event) -> None:
        """Pause after a failure, with exponential backoff."""
        if self._pauses is None:
            _logger.warning("cannot follow the queue, trying again until it is back: %s", error)
            self._pauses = pauses()
        leave.wait(next(self._pauses))

    def end(self) -> None:
        """End the outage, if there is one; call it after a success."""
        if self._pauses is not None:
            _logger.info("%s is back", self._what)
        self._pauses = None
