"""Receives and deletes messages of a queue of Amazon SQS, or of a service that speaks its protocol.

A request takes at most ten messages, so several run at once; SQS's errors become StorageError or TransientError.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from conf.aws.connection import S3Connection
from conf.aws.errors import Explainer

_PER_REQUEST = 10
_AT_ONCE = 8
_LONGEST_POLL = 20  # seconds that SQS allows
_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
_MISSING = "there is no such queue; check --queue, and that s3.region or AWS_REGION is the queue's region"
_NO_KEY = "its messages are encrypted; grant kms:Decrypt on its key"
_explained = Explainer(
    "the queue",
    {
        "AWS.SimpleQueueService.NonExistentQueue": _MISSING,
        "QueueDoesNotExist": _MISSING,
        "KMS.AccessDeniedException": _NO_KEY,
        "KmsAccessDenied": _NO_KEY,
        "InvalidAddress": "this is not the URL of a queue; give it as aws sqs get-queue-url prints it",
    },
).explained

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was received this time.

    Attributes:
        id: the same each time.
        body: the content.
        receipt: the handle with which SQS deletes it, new each time.
        sent_at: when it was sent to the queue, by the clock of SQS; 1970 where a service does not tell.
    """

    id: str
    body: str
    receipt: str
    sent_at: datetime


class Queue:
    """One queue; several requests run at once while there is much to do.

    Every method raises StorageError if the queue refuses, and TransientError if it fails now.
    """

    def __init__(self, url: str, connection: S3Connection) -> None:
        self.url = url
        with _explained(url, "sqs:GetQueueAttributes"):
            self._sqs: Any = connection.client("sqs")
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="queue")
        # A poll as long as the connection's timeout would be taken for a lost connection.
        self._longest_poll = min(_LONGEST_POLL, connection.timeout / 2)
        self._is_busy = False

    def visibility(self) -> timedelta:
        """The visibility timeout: the time after which a message that was received and not deleted comes again."""
        with _explained(self.url, "sqs:GetQueueAttributes"):
            answer = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["VisibilityTimeout"])
        return timedelta(seconds=int(answer["Attributes"]["VisibilityTimeout"]))

    def count(self) -> int:
        """About how many messages there are, whether they can be received now, later, or are with a reader."""
        with _explained(self.url, "sqs:GetQueueAttributes"):
            answer = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=list(_COUNTS))
        return sum(int(answer["Attributes"][name]) for name in _COUNTS)

    def receive(self, limit: int, wait: float) -> tuple[list[Message], bool]:
        """Up to `limit` messages, after at most `wait` seconds, and whether there are probably more."""
        requests = max(1, min(_AT_ONCE, limit // _PER_REQUEST)) if self._is_busy else 1
        # While there are many messages, a long poll that stays empty must not delay the full answers.
        seconds = 0 if self._is_busy else int(max(0, min(wait, self._longest_poll)))
        answers = [self._pool.submit(self._receive, min(_PER_REQUEST, limit), seconds) for _ in range(requests)]
        messages = [message for answer in answers for message in answer.result()]
        self._is_busy = len(messages) > requests
        return messages, self._is_busy

    def _receive(self, limit: int, seconds: int) -> list[Message]:
        with _explained(self.url, "sqs:ReceiveMessage"):
            answer = self._sqs.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=limit,
                WaitTimeSeconds=seconds,
                MessageSystemAttributeNames=["SentTimestamp"],
            )
        return [_message(one) for one in answer.get("Messages", ())]

    def delete(self, messages: Sequence[Message]) -> None:
        """Delete messages that were received. One that cannot be deleted comes again; the log says so."""
        list(
            self._pool.map(
                self._delete, [messages[at : at + _PER_REQUEST] for at in range(0, len(messages), _PER_REQUEST)]
            )
        )

    def _delete(self, messages: Sequence[Message]) -> None:
        entries = [{"Id": str(at), "ReceiptHandle": message.receipt} for at, message in enumerate(messages)]
        with _explained(self.url, "sqs:DeleteMessage"):
            answer = self._sqs.delete_message_batch(QueueUrl=self.url, Entries=entries)
        for failed in answer.get("Failed", ()):
            _logger.warning(
                "message %s could not be deleted and comes again, which repeats nothing: %s",
                messages[int(failed["Id"])].id,
                failed.get("Message") or failed.get("Code"),
            )


def _message(received: dict[str, Any]) -> Message:
    sent_at = datetime.fromtimestamp(int(received.get("Attributes", {}).get("SentTimestamp", 0)) / 1000, UTC)
    return Message(received["MessageId"], received["Body"], received["ReceiptHandle"], sent_at)
