"""What a queue refuses, and how it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from conf.aws.connection import S3Connection, forget_clients
from conf.errors import RefusedError, SettingsError, StorageError, TransientError
from streaming.discovery.by_events import check_interval
from streaming.discovery.sqs import Queue
from tests.support.queues import CONNECTION, NotifyingBucket, new_notifying_bucket
from tests.support.refusals import refusing
from tests.support.servers import CREDENTIALS


@pytest.fixture
def bucket(moto_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifyingBucket]:
    """With a queue."""
    with new_notifying_bucket(moto_address, monkeypatch) as made:
        yield made


def test_a_missing_queue_is_one_line(bucket: NotifyingBucket) -> None:
    """It names the queue and where to look."""
    with pytest.raises(StorageError, match=r"/nowhere: there is no such queue; check --queue"):
        Queue(f"{bucket.url.rpartition('/')[0]}/nowhere", CONNECTION).visibility()


@pytest.mark.parametrize(
    ("code", "status", "kind", "told"),
    [
        ("AccessDeniedException", 400, RefusedError, "http://q: access denied; grant sqs:ReceiveMessage"),
        ("KmsAccessDenied", 400, StorageError, "grant kms:Decrypt"),
        ("ExpiredToken", 403, StorageError, "the AWS credentials are not valid, or not any more; renew them"),
        ("RequestThrottled", 400, TransientError, "the queue is overloaded or failing"),
        ("ServiceUnavailable", 503, TransientError, "the queue is overloaded or failing"),
    ],
)
def test_what_a_queue_refuses_ends_the_program_and_what_passes_is_waited_for(
    code: str, status: int, kind: type[StorageError], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer has its meaning, and its words."""
    with refusing(code, status) as address:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL_SQS": address}.items():
            monkeypatch.setenv(name, value)
        forget_clients()
        with pytest.raises(StorageError) as caught:
            Queue("http://q", S3Connection(attempts=1)).receive(10, 0)
    assert type(caught.value) is kind
    assert told in str(caught.value)


def test_without_a_region_it_is_said(bucket: NotifyingBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 does without, SQS does not."""
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    forget_clients()
    with pytest.raises(StorageError, match=r"no region is set; set s3\.region or AWS_REGION"):
        Queue(bucket.url, CONNECTION)


def test_the_endpoint_of_a_store_is_not_that_of_its_queue(bucket: NotifyingBucket, moto_address: str) -> None:
    """A store of one's own has no queues; AWS_ENDPOINT_URL says where they are."""
    connection = S3Connection(endpoint="http://127.0.0.1:1")
    assert connection.client("sqs").meta.endpoint_url == moto_address
    assert connection.client().meta.endpoint_url == "http://127.0.0.1:1"


def test_an_interval_too_long_for_the_queue_is_refused(bucket: NotifyingBucket) -> None:
    """Messages must not come again while their manifest is still filling."""
    queue = Queue(bucket.url, CONNECTION)
    check_interval(timedelta(seconds=1), queue)
    with pytest.raises(SettingsError, match=r"1\.5s is more than half of .* 2s; .* set the timeout to 3s or more"):
        check_interval(timedelta(seconds=1.5), queue)
