"""Draining a queue: all that it has is taken, once, and that it is empty is told reliably, within bounds."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from streaming.discovery import drain as draining
from streaming.discovery.by_events import EventsDiscoverer
from streaming.discovery.by_listing import ListingDiscoverer
from streaming.discovery.drain import Drain
from streaming.discovery.messages import Sorter
from streaming.discovery.sqs import Message, Queue
from streaming.output import manifests
from streaming.output.inbox import Inbox
from streaming.output.places import Input
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.queues import CONNECTION, NotifyingBucket, new_notifying_bucket, record
from tests.support.tenures import new_log

SECOND = timedelta(seconds=1)


@pytest.fixture
def bucket(moto_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifyingBucket]:
    """With a queue whose messages come again after two seconds, and an input that was listed before it had any."""
    with new_notifying_bucket(moto_address, monkeypatch) as made:
        yield made


@pytest.fixture
def output(tmp_path: Path, bucket: NotifyingBucket) -> Folder:
    folder = open_folder(str(tmp_path / "out"))
    manifests.prepare_log(folder)
    _discoverer(bucket, folder).catch_up(10)
    assert bucket.waiting() == 0
    return folder


def _discoverer(
    bucket: NotifyingBucket, output: Folder, should_stop: Callable[[], bool] = lambda: False
) -> EventsDiscoverer:
    log, source = new_log(output), Input(bucket.source, CONNECTION)
    inbox = Inbox(log)
    drain = Drain(Queue(bucket.url, CONNECTION), Sorter(source), SECOND, should_stop)
    return EventsDiscoverer(source, drain, ListingDiscoverer(source, log, inbox, timedelta(0)), log, inbox)


def _logged(output: Folder) -> Counter[str]:
    log = [manifests.read_manifest(output, one) for one in manifests.manifest_ids(output)]
    return Counter(picture.path for pictures in log for picture in pictures)


def _once(paths: list[str]) -> Counter[str]:
    return Counter(dict.fromkeys(paths, 1))


def _receive_elsewhere(bucket: NotifyingBucket, seconds: int) -> int:
    """Another reader takes up to ten messages, and keeps them for so long."""
    answer = bucket.sqs.receive_message(QueueUrl=bucket.url, MaxNumberOfMessages=10, VisibilityTimeout=seconds)
    return len(answer["Messages"])


def test_all_that_the_queue_has_is_taken_once(bucket: NotifyingBucket, output: Folder) -> None:
    """Also what is sent twice; manifests have the size that was asked for, and the queue is empty then."""
    paths = bucket.put(*(f"{number}.jpg" for number in range(25)))
    for name in ("in/3.jpg", "in/3.jpg", "in/7.jpg"):
        bucket.send({"Records": [record(bucket.name, name)]})
    discoverer = _discoverer(bucket, output)
    assert discoverer.has_new()
    assert discoverer.catch_up(10).found == 25
    assert _logged(output) == _once(paths)
    assert bucket.waiting() == 0
    assert max(len(manifests.read_manifest(output, one)) for one in manifests.manifest_ids(output)) <= 10


def test_what_tells_of_nothing_new_starts_nothing(
    bucket: NotifyingBucket, output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages of known pictures go, and no manifest comes of them; nothing is listed any more."""
    paths = bucket.put("a.jpg", "b.jpg")
    _discoverer(bucket, output).catch_up(10)
    for name in ("in/a.jpg", "in/b.jpg"):
        bucket.send({"Records": [record(bucket.name, name)]})
    monkeypatch.setattr(Input, "pictures", None)
    assert not _discoverer(bucket, output).has_new()
    assert bucket.waiting() == 0
    assert _logged(output) == _once(paths)


def test_an_empty_short_poll_is_not_an_empty_queue(
    bucket: NotifyingBucket, output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short poll asks some of the servers of SQS only, and those may have none."""
    paths = bucket.put(*(f"{number}.jpg" for number in range(30)))
    receive, polls = Queue._receive, Counter[bool]()

    def receive_little(queue: Queue, limit: int, seconds: int) -> list[Message]:
        polls[seconds > 0] += 1
        return receive(queue, limit, seconds) if seconds else []

    monkeypatch.setattr(Queue, "_receive", receive_little)
    _discoverer(bucket, output).catch_up(100)
    assert _logged(output) == _once(paths)
    assert polls[False] >= 1


def test_messages_that_another_reader_gives_back_are_waited_for(bucket: NotifyingBucket, output: Folder) -> None:
    """Such as those of a run that was killed; and those that were sent with a delay."""
    paths = bucket.put("a.jpg", "b.jpg")
    assert _receive_elsewhere(bucket, 2) == 2
    body = json.dumps({"Records": [record(bucket.name, "in/late.jpg")]})
    bucket.sqs.send_message(QueueUrl=bucket.url, MessageBody=body, DelaySeconds=1)
    assert _discoverer(bucket, output).catch_up(10).found == 3
    assert _logged(output) == _once([*paths, f"{bucket.source}/late.jpg"])
    assert bucket.waiting() == 0


def test_messages_that_another_reader_keeps_are_left_to_the_next_run(
    bucket: NotifyingBucket, output: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait for them is bounded, and a line says how many there are."""
    monkeypatch.setattr(draining, "_LAG_SECONDS", 0)
    bucket.put("a.jpg", "b.jpg")
    assert _receive_elsewhere(bucket, 3600) == 2
    began = time.monotonic()
    assert not _discoverer(bucket, output).has_new()
    assert 2 < time.monotonic() - began < 30
    assert f"about 2 messages of {bucket.url} are still with another reader: left for the next run" in caplog.text


def test_what_is_left_for_the_dead_letter_queue_holds_nobody_up(bucket: NotifyingBucket, output: Folder) -> None:
    """It comes again and again; what a message tells besides is taken."""
    records = [record(bucket.name, "in/good.jpg"), record(bucket.name, "elsewhere.jpg")]
    for body in ("not JSON", {"Records": [record("another", "in/x.jpg")]}, {"Records": records}):
        bucket.send(body)
    began = time.monotonic()
    assert _discoverer(bucket, output).catch_up(10).found == 1
    assert time.monotonic() - began < 30
    assert _logged(output) == _once([f"{bucket.source}/good.jpg"])
    assert bucket.waiting() == 3


def test_a_queue_that_never_is_empty_ends_a_drain(
    bucket: NotifyingBucket, output: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All that was there at its beginning is taken, and what comes without end is left to the next run."""
    caplog.set_level(logging.INFO)
    there, receive = bucket.put(*(f"{number}.jpg" for number in range(12))), Queue._receive
    came: list[str] = []

    def receive_and_send(queue: Queue, limit: int, seconds: int) -> list[Message]:
        came.append(f"new-{len(came)}.jpg")
        bucket.put(came[-1])
        return receive(queue, limit, seconds)

    discoverer = _discoverer(bucket, output)
    monkeypatch.setattr(Queue, "_receive", receive_and_send)
    discoverer.catch_up(5)
    logged = _logged(output)
    assert logged.keys() >= set(there)
    assert set(logged.values()) == {1}
    assert "pictures keep arriving in" in caplog.text


def test_killed_between_manifest_and_deletion_nothing_is_repeated(
    bucket: NotifyingBucket, output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message goes before its pictures are durable; it comes again, is known, and goes."""
    paths = bucket.put("a.jpg", "b.jpg", "c.jpg")

    def die(_queue: Queue, _messages: list[Message]) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "delete", die)
        with suppress(SystemExit):
            _discoverer(bucket, output).catch_up(10)
    assert _logged(output) == _once(paths)
    assert bucket.waiting() == 3
    assert not _discoverer(bucket, output).has_new()
    assert bucket.waiting() == 0
    assert _logged(output) == _once(paths)


def test_a_drain_ends_when_it_is_told_to(bucket: NotifyingBucket, output: Folder) -> None:
    """What it has not taken stays in the queue."""
    bucket.put("a.jpg")
    assert _receive_elsewhere(bucket, 3600) == 1
    asked: list[int] = []

    def third_time() -> bool:
        asked.append(1)
        return len(asked) > 2

    assert not _discoverer(bucket, output, third_time).has_new()
    assert bucket.waiting() == 1


def test_an_input_that_was_never_listed_is_listed_once(bucket: NotifyingBucket, tmp_path: Path) -> None:
    """If there is anything in it; an empty one is nothing new, and no error, as its first pictures are to come."""
    output = open_folder(str(tmp_path / "another"))
    manifests.prepare_log(output)
    assert not _discoverer(bucket, output).has_new()
    paths = bucket.put("a.jpg", "b.jpg")
    bucket.lose_messages()
    discoverer = _discoverer(bucket, output)
    assert discoverer.has_new()
    assert discoverer.catch_up(10).found == 2
    assert _logged(output) == _once(paths)
    bucket.put("lost.jpg")
    bucket.lose_messages()
    assert not _discoverer(bucket, output).has_new()
