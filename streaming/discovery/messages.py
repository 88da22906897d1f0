"""Sorts the messages of a queue: which pictures they tell of, and which are left for its dead-letter queue."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from streaming.discovery.notifications import read_notification
from streaming.output.places import Input
from streaming.storage.folder import StoredPicture

if TYPE_CHECKING:  # botocore is beneath it
    from streaming.discovery.sqs import Message

_REMEMBERED = 10_000

_logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """The pictures that messages have told of.

    Attributes:
        messages: to be deleted once their pictures are in manifests.
        pictures: by path.
        ignored: the paths of pictures that were ignored by their names.
        oldest: when the first of the messages was sent, without those that were left in the queue before; None if
            there are no others.
    """

    messages: list[Message] = field(default_factory=list)
    pictures: dict[str, StoredPicture] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    oldest: datetime | None = None


class Sorter:
    """Sorts messages for an input.

    A message that is not understood, or not about the input, is logged once and left in the queue, although it comes
    again and again.
    """

    def __init__(self, source: Input) -> None:
        self._source = source
        self._left: set[str] = set()

    @property
    def left(self) -> int:
        """The number of messages that were left in the queue."""
        return len(self._left)

    def sort(self, message: Message, batch: Batch) -> None:
        """Add a message to a batch, or leave it; the pictures that it does tell of are added in either case."""
        if message.id not in self._left:
            batch.oldest = min(batch.oldest or message.sent_at, message.sent_at)
        said = read_notification(message.body, self._source.root)
        for picture in said.pictures:
            if self._source.takes(picture.path):
                batch.pictures[picture.path] = picture
            else:
                batch.ignored.append(picture.path)
        if said.problem:
            self._leave(message, said.problem)
            return
        if said.test_of:
            _logger.info("the notifications of bucket %r reach the queue", said.test_of)
        batch.messages.append(message)

    def _leave(self, message: Message, problem: str) -> None:
        if message.id in self._left:
            return
        if len(self._left) >= _REMEMBERED:
            self._left.clear()
        self._left.add(message.id)
        _logger.warning("message %s is left for the dead-letter queue: %s", message.id, problem)
