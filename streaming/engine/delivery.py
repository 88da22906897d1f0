"""Sends metrics to a log group of CloudWatch, which makes metrics of lines in its embedded metric format.

It never holds up who tells it a metric: documents go into a bounded queue, and a daemon thread sends them in batches.
What the service does not take is dropped, with one warning when that begins and one line when it is over.
https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from conf.aws.connection import S3Connection

_QUEUED = 10_000  # documents of 500 bytes: 5 MB
_EVENTS = 10_000  # of a request, as are the next three
_BYTES = 1_048_576
_BYTES_BESIDE = 26
_SPAN_MILLISECONDS = 24 * 3600 * 1000 - 1
_PAUSE_SECONDS = 2.0  # in which documents gather: a request in two seconds is far below any quota
_REQUEST_SECONDS = 5.0
_FLUSH_SECONDS = 5.0
_LONGEST_NAME = 512

_logger = logging.getLogger(__name__)

Event = dict[str, Any]
"""`timestamp`, in milliseconds since 1970, and `message`, as PutLogEvents takes them."""


def stream_name(output: str) -> str:
    """The log stream of this process for an output; names have no colons and asterisks, and 512 characters at most."""
    return re.sub("[:*]", "_", f"{socket.gethostname()}/{os.getpid()}/{output}")[:_LONGEST_NAME]


def batches(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Cut events into batches that a request may have: in the order of time, and not too many, too large or too far."""
    batch: list[Event] = []
    size = 0
    for event in sorted(events, key=lambda one: one["timestamp"]):
        length = len(event["message"].encode()) + _BYTES_BESIDE
        is_too_late = bool(batch) and event["timestamp"] - batch[0]["timestamp"] > _SPAN_MILLISECONDS
        if batch and (len(batch) == _EVENTS or size + length > _BYTES or is_too_late):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += length
    if batch:
        yield batch


class Delivery:
    """Sends documents of metrics to a log group, which exists, until some seconds after the context's end.

    The region and the credentials of the connection are those of the log group.
    """

    def __init__(self, group: str, output: str, connection: S3Connection) -> None:
        self._place = {"logGroupName": group, "logStreamName": stream_name(output)}
        self._connection = connection.hasty(_REQUEST_SECONDS)
        self._queue: queue.Queue[Event] = queue.Queue(_QUEUED)
        self._ends = threading.Event()
        self._lock = threading.Lock()
        self._dropped = 0
        self._has_stream = False
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(_FLUSH_SECONDS)
        if self._thread.is_alive():
            _logger.warning("the last metrics were not sent: log group %s does not answer", self._place["logGroupName"])

    def send(self, document: Mapping[str, Any]) -> None:
        """Take a document, which has its time in `_aws`; returns at once."""
        try:
            self._queue.put_nowait({"timestamp": document["_aws"]["Timestamp"], "message": json.dumps(document)})
        except queue.Full:
            self._drop(1, f"{_QUEUED:,} documents are waiting to be sent")

    def _run(self) -> None:
        while not self._ends.wait(_PAUSE_SECONDS):
            self._send_waiting()
        self._send_waiting()

    def _send_waiting(self) -> None:
        events: list[Event] = []
        with suppress(queue.Empty):
            while True:
                events.append(self._queue.get_nowait())
        for batch in batches(events):
            self._send(batch)

    def _send(self, batch: list[Event]) -> None:
        try:
            answer = self._put(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next metrics may be taken
            self._has_stream = False  # it, or its group, may have been deleted
            self._drop(len(batch), str(error))
            return
        if refused := _refused(answer, len(batch)):
            self._drop(refused, "it refused documents as too old or too new: is the clock of this machine right?")
        else:
            self._recover()

    def _put(self, batch: list[Event]) -> Mapping[str, Any]:
        client = self._connection.client("logs")
        if not self._has_stream:
            with suppress(client.exceptions.ResourceAlreadyExistsException):
                client.create_log_stream(**self._place)
            self._has_stream = True
        answer: Mapping[str, Any] = client.put_log_events(**self._place, logEvents=batch)
        return answer

    def _drop(self, count: int, why: str) -> None:
        with self._lock:
            is_first, self._dropped = not self._dropped, self._dropped + count
        if is_first:
            group = self._place["logGroupName"]
            _logger.warning("metrics are dropped until log group %s takes them: %s", group, " ".join(why.split()))

    def _recover(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            _logger.info("log group %s takes metrics again; %d were dropped", self._place["logGroupName"], dropped)


def _refused(answer: Mapping[str, Any], count: int) -> int:
    """The number of events of a batch that the service has refused for their times."""
    info = answer.get("rejectedLogEventsInfo") or {}
    too_old = max(info.get("tooOldLogEventEndIndex", 0), info.get("expiredLogEventEndIndex", 0))
    return int(too_old + count - info.get("tooNewLogEventStartIndex", count))
