"""Buckets of moto's server whose notifications go to a queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from conf.aws.connection import S3Connection
from tests.support.buckets import new_bucket

CONNECTION = S3Connection()


@dataclass(frozen=True)
class NotifyingBucket:
    """A new bucket whose notifications go to a new queue."""

    name: str
    url: str
    s3: Any
    sqs: Any

    @property
    def source(self) -> str:
        return f"s3://{self.name}/in"

    def put(self, *names: str) -> list[str]:
        """Write objects below the input; returns their paths."""
        for name in names:
            self.s3.put_object(Bucket=self.name, Key=f"in/{name}", Body=b"123")
        return [f"{self.source}/{name}" for name in names]

    def send(self, body: object) -> None:
        self.sqs.send_message(QueueUrl=self.url, MessageBody=body if isinstance(body, str) else json.dumps(body))

    def waiting(self) -> int:
        """Messages in the queue, whether they can be received now or not."""
        return self._count("ApproximateNumberOfMessages") + self.in_flight()

    def in_flight(self) -> int:
        """Messages that were received and neither deleted nor given back."""
        return self._count("ApproximateNumberOfMessagesNotVisible")

    def _count(self, name: Any) -> int:
        answer = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=[name])
        return int(answer["Attributes"][name])

    def lose_messages(self) -> None:
        while answer := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in answer:
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])

    def bodies(self) -> list[str]:
        """What is left in the queue and can be received."""
        answer = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10)
        return [message["Body"] for message in answer.get("Messages", ())]


@contextmanager
def new_notifying_bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifyingBucket]:
    """With a queue whose messages come again after two seconds."""
    with new_bucket(server, monkeypatch) as made:
        sqs = CONNECTION.client("sqs")
        url = sqs.create_queue(QueueName=made.name, Attributes={"VisibilityTimeout": "2"})["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        notify = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}]}
        made.s3.put_bucket_notification_configuration(Bucket=made.name, NotificationConfiguration=notify)
        yield NotifyingBucket(made.name, url, made.s3, sqs)


def record(bucket: str, key: str, /, name: str = "ObjectCreated:Put", **more: Any) -> dict[str, Any]:
    """A record of a notification, as S3 writes it."""
    return {
        "eventName": name,
        "eventTime": "2026-01-31T12:00:00.123Z",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 3, "eTag": "abc", **more}},
    }
