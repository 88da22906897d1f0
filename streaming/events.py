"""Finds pictures by S3's event notifications, which come through a queue.

It owns when a message is done with; it must not know of SQS, nor of the form of a message. A message is deleted after
the manifest with its pictures is durable, so that a kill anywhere repeats it, and repeating it changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from conf.errors import SettingsError, TransientError
from conf.pauses import pauses
from streaming import manifests
from streaming.discovery import ListingDiscoverer
from streaming.features.stored import Folder, StoredPicture
from streaming.manifest_writer import ManifestWriter
from streaming.notifications import read_notification

if TYPE_CHECKING:  # botocore is beneath it
    from streaming.sqs import Message, Queue

_IDLE_SECONDS = 2  # the longest that a request may wait for a message, because ending waits for the request
_BACKLOG_SECONDS = 1  # a shorter interval is stretched to it while there is a backlog, which small manifests slow down
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
    """Messages that may be deleted once the pictures in them are in manifests; each picture once, by its path."""

    messages: list[Message] = field(default_factory=list)
    pictures: dict[str, StoredPicture] = field(default_factory=dict)


class EventsDiscoverer:
    """Follows a queue.

    Args:
        source: canonical path of the input.
        queue: gets the notifications.
        listing: finds what was there before the queue was followed for the first time.
        writer: gets what is new; shared with `listing`.
        output: remembers that the input was listed.
    """

    def __init__(
        self, source: str, queue: Queue, listing: ListingDiscoverer, writer: ManifestWriter, output: Folder
    ) -> None:
        self._source = source
        self._queue = queue
        self._listing = listing
        self._writer = writer
        self._output = output
        self._reported: set[str] = set()

    def follow(self, max_pictures: int, interval: timedelta, leave: threading.Event) -> None:
        """Turn messages into manifests until told to leave. A queue that fails for a while is waited for."""
        outage = _Outage(self._queue.url)
        listed = False
        while not leave.is_set():
            try:
                if not listed:
                    self._list_once(max_pictures)
                    listed = True
                self._writer.requests.take_in(max_pictures)
                batch = self._collect(max_pictures, interval, leave)
                self._writer.append_unknown(list(batch.pictures.values()), max_pictures)
                self._queue.delete(batch.messages)
            except TransientError as error:
                outage.wait(error, leave)
            else:
                outage.end()

    def _list_once(self, max_pictures: int) -> None:
        """List the input if this queue was never followed from a complete listing on; events meanwhile wait in it."""
        digest = hashlib.sha256(f"{self._source}\n{self._queue.url}".encode()).hexdigest()
        mark = f"{manifests.FOLDER}/_listed-{digest[:8]}.txt"
        if self._output.exists(mark):
            return
        _logger.info("listing %s once, before following the queue", self._source)
        look = self._listing.look(max_pictures)
        _logger.info("found %d new pictures of %d; following %s", look.found, look.listed, self._queue.url)
        text = f"{self._source} was listed by {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; later pictures come through\n"
        self._output.create(mark, f"{text}{self._queue.url}\nDelete this file to have it listed once more.\n".encode())

    def _collect(self, max_pictures: int, interval: timedelta, leave: threading.Event) -> _Batch:
        """What comes within the interval from the first message on; an empty batch if there is none for a while."""
        batch = _Batch()
        end = latest = math.inf
        while not leave.is_set() and len(batch.messages) < max_pictures:
            left = (latest if self._queue.busy else end) - time.monotonic()
            if left < 0:
                break
            messages = self._queue.receive(max_pictures - len(batch.messages), min(left, _IDLE_SECONDS))
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
        said = read_notification(message.body, self._source)
        batch.pictures.update((picture.path, picture) for picture in said.pictures)
        if said.problem:
            self._report(message, said.problem)
            return
        if said.test_of:
            _logger.info("the notifications of bucket %r reach the queue", said.test_of)
        batch.messages.append(message)

    def _report(self, message: Message, problem: str) -> None:
        """Say that a message is left in the queue, once, although it comes again and again."""
        if message.id in self._reported:
            return
        if len(self._reported) >= _REMEMBERED:
            self._reported.clear()
        self._reported.add(message.id)
        _logger.warning("message %s is left for the dead-letter queue: %s", message.id, problem)


class _Outage:
    """The time during which a queue fails: said once when it begins and once when it is over."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pauses: Iterator[float] | None = None

    def wait(self, error: TransientError, leave: threading.Event) -> None:
        """Pause after a failure, longer after each."""
        if self._pauses is None:
            _logger.warning("cannot follow the queue, trying again until it is back: %s", error)
            self._pauses = pauses()
        leave.wait(next(self._pauses))

    def end(self) -> None:
        """After a success."""
        if self._pauses is not None:
            _logger.info("%s is back", self._what)
        self._pauses = None
