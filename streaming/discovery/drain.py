"""Takes from a queue what it has now, and tells reliably when that is all.

A queue of SQS is spread over many servers. A short poll asks some of them, and may find nothing in a queue that has
messages; a long poll asks all. Messages that another reader has received and not deleted, such as a run that was
killed, cannot be received before the queue's visibility timeout is over. So a queue is empty if a long poll finds
nothing, and its counts, which lag behind by up to a minute, say that no message is visible, delayed or in flight, but
for those that are left for the dead-letter queue. As long as they say otherwise it is polled again, for the visibility
timeout at most: a message that another reader keeps for longer is for the next run.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from conf.plural import plural
from streaming.discovery.messages import Batch, Sorter

if TYPE_CHECKING:  # botocore is beneath it
    from streaming.discovery.sqs import Queue

_POLL_SECONDS = 1  # a poll is long whatever its length, and a signal waits for it
_FEWEST = 10  # messages of a request, which costs the same for one
_LAG_SECONDS = 60  # of the counts

_logger = logging.getLogger(__name__)


class Drain:
    """The messages that a queue has when this is made, batch by batch.

    Args:
        queue: read by nothing else in this process.
        sorter: sorts the messages.
        interval: the longest that a batch is collected.
        should_stop: whether to end before the queue is empty; asked after each request.
    """

    def __init__(self, queue: Queue, sorter: Sorter, interval: timedelta, should_stop: Callable[[], bool]) -> None:
        self.queue = queue
        self.sorter = sorter
        self._interval = interval.total_seconds()
        self._should_stop = should_stop
        self._began = datetime.now(UTC)
        self._more = False

    def batches(self, limit: int) -> Iterator[Batch]:
        """Batches of about `limit` messages at most.

        The caller deletes the messages of a batch before it asks for the next one. While pictures keep arriving, the
        queue never is empty: a batch of messages that were all sent after the drain began is the last.

        Raises:
            StorageError: the queue refuses.
            TransientError: the queue fails now.
        """
        give_up = None
        while not self._should_stop():
            batch = self._collect(limit)
            if batch.oldest:
                give_up = None
                yield batch
                if batch.oldest > self._began:
                    _logger.info("pictures keep arriving in %s: later ones are left for the next run", self.queue.url)
                    return
                continue
            hidden = self.queue.count() - self.sorter.left
            if hidden <= 0:
                return
            if give_up is None:
                wait = self.queue.visibility().total_seconds() + _LAG_SECONDS
                give_up = time.monotonic() + wait
                _logger.info(
                    "about %s of %s are with another reader, or late; waiting %.0fs at most",
                    plural(hidden, "message"),
                    self.queue.url,
                    wait,
                )
            elif time.monotonic() > give_up:
                _logger.warning(
                    "about %s of %s are still with another reader: left for the next run",
                    plural(hidden, "message"),
                    self.queue.url,
                )
                return

    def _collect(self, limit: int) -> Batch:
        """The messages received until a long poll finds nothing, the batch is full or its time is over."""
        batch = Batch()
        give_up = time.monotonic() + self._interval
        while not batch.oldest or (len(batch.messages) < limit and time.monotonic() < give_up):
            was_short, before = self._more, (len(batch.messages), self.sorter.left)
            messages, self._more = self.queue.receive(max(_FEWEST, limit - len(batch.messages)), _POLL_SECONDS)
            for message in messages:
                self.sorter.sort(message, batch)
            # Messages that were left in the queue come again and again: a poll with no others has found nothing.
            found_nothing = (len(batch.messages), self.sorter.left) == before
            if (found_nothing and not was_short) or self._should_stop():
                break
        return batch
