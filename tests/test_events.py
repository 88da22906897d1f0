"""Discovery by event notifications: real queues and real notifications of moto's server."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import RefusedError, SettingsError, StorageError, TransientError
from conf.s3 import S3Connection, forget_clients
from conf.settings import load_settings
from streaming import manifests
from streaming.__main__ import main as stream
from streaming.discovery import ListingDiscoverer
from streaming.events import EventsDiscoverer, check_interval
from streaming.features.storage import list_pictures, open_folder
from streaming.features.stored import Folder
from streaming.known import KnownPictures
from streaming.manifest_writer import ManifestWriter
from streaming.notifications import read_notification
from streaming.sqs import Message, Queue
from tests.servers import CREDENTIALS, free_port, moto
from tests.streams import Place, start

CONNECTION = S3Connection()
ODD_KEYS = ["a b", "é", "a+b%20#?=&:c", "_x", ".y", "a//b", "UPPER.JPG", "日本/ü", "%2B", "100%"]
Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of moto, which is S3 and SQS in one."""
    with moto() as address:
        yield address


@dataclass(frozen=True)
class Bucket:
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
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)

    def lose_messages(self) -> None:
        while answer := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in answer:
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])

    def bodies(self) -> list[str]:
        """What is left in the queue and can be received."""
        answer = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10)
        return [message["Body"] for message in answer.get("Messages", ())]


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """With a queue whose messages come again after two seconds."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    name = f"pictures-{uuid.uuid4().hex[:12]}"
    s3, sqs = CONNECTION.client(), CONNECTION.client("sqs")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": CREDENTIALS["AWS_REGION"]})
    url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "2"})["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    notify = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}]}
    s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration=notify)
    yield Bucket(name, url, s3, sqs)
    forget_clients()


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    folder = open_folder(str(tmp_path / "out"))
    manifests.prepare_log(folder)
    return folder


def _discoverer(bucket: Bucket, output: Folder, may_append: Callable[[], None] = lambda: None) -> EventsDiscoverer:
    writer = ManifestWriter(output, KnownPictures(output), may_append)
    listed = partial(list_pictures, bucket.source, connection=CONNECTION)
    listing = ListingDiscoverer(bucket.source, listed, writer, timedelta(0))
    return EventsDiscoverer(bucket.source, Queue(bucket.url, CONNECTION), listing, writer, output)


@contextmanager
def _following(
    bucket: Bucket, output: Folder, discoverer: EventsDiscoverer | None = None, max_pictures: int = 1000
) -> Iterator[None]:
    """A discoverer at work, with an interval of 0.2 s, until the context ends."""
    leave = threading.Event()
    discoverer = discoverer or _discoverer(bucket, output)
    thread = threading.Thread(target=discoverer.follow, args=(max_pictures, timedelta(seconds=0.2), leave))
    thread.start()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def _logged(output: Folder) -> Counter[str]:
    """How often each path stands in the log."""
    log = [manifests.read_manifest(output, one) for one in manifests.manifest_ids(output)]
    return Counter(picture.path for pictures in log for picture in pictures)


def _once(paths: list[str]) -> Counter[str]:
    return Counter(dict.fromkeys(paths, 1))


def _record(bucket: str, key: str, /, name: str = "ObjectCreated:Put", **more: Any) -> dict[str, Any]:
    return {
        "eventName": name,
        "eventTime": "2026-01-31T12:00:00.123Z",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 3, "eTag": "abc", **more}},
    }


def test_arrivals_come_as_raw_keys_and_their_messages_go(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """A path is the key as S3 holds it; the test message of a new notification is no obstacle."""
    with _following(bucket, output):
        paths = bucket.put(*ODD_KEYS)
        wait_for(lambda: bucket.waiting() == 0 and len(_logged(output)) == len(paths))
    assert _logged(output) == _once(paths)


def test_an_event_and_a_listing_say_the_same(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """Path, length and tag are equal, and the time but for its fraction."""
    with _following(bucket, output):
        bucket.put("a.jpg")
        wait_for(lambda: len(_logged(output)) == 1)
    [listed] = list_pictures(bucket.source, print, CONNECTION)
    [told] = manifests.read_manifest(output, manifests.manifest_ids(output)[0])
    assert (told.path, told.length, told.etag) == (listed.path, listed.length, listed.etag)
    assert told.etag == "202cb962ac59075b964b07152d234b70"
    assert abs(told.modification_time - listed.modification_time) < timedelta(seconds=2)


def test_a_first_start_lists_once_and_then_follows(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """What was there before the queue is found; a second start does not list again, whatever the queue has lost."""
    paths = bucket.put("old1", "old2")
    bucket.lose_messages()
    with _following(bucket, output):
        wait_for(lambda: len(_logged(output)) == 2)
        paths += bucket.put("new")
        wait_for(lambda: len(_logged(output)) == 3 and bucket.waiting() == 0)
    bucket.put("lost")
    bucket.lose_messages()
    with _following(bucket, output):
        paths += bucket.put("later")
        wait_for(lambda: len(_logged(output)) == 4)
    assert _logged(output) == _once(paths)


def test_a_first_listing_that_was_killed_is_done_anew(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """Some pictures are known then, and the rest must not be taken for known."""
    paths = bucket.put("a", "b", "c")
    bucket.lose_messages()
    calls = []

    def die_at_second() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise SystemExit

    with suppress(SystemExit):
        _discoverer(bucket, output, die_at_second).follow(1, timedelta(0), threading.Event())
    assert len(_logged(output)) == 1
    with _following(bucket, output):
        wait_for(lambda: len(_logged(output)) == 3)
    assert _logged(output) == _once(paths)


def test_killed_between_manifest_and_deletion_nothing_is_repeated(
    bucket: Bucket, output: Folder, monkeypatch: pytest.MonkeyPatch, wait_for: Wait
) -> None:
    """The messages come again, are known, and go."""
    _discoverer(bucket, output)._list_once(10)
    paths = bucket.put("a", "b", "c")

    def die(_queue: Queue, _messages: list[Message]) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "delete", die)
        with suppress(SystemExit):
            _discoverer(bucket, output).follow(10, timedelta(seconds=0.5), threading.Event())
    assert _logged(output) == _once(paths)
    assert bucket.waiting() == 4  # the test message is one of them
    with _following(bucket, output):
        wait_for(lambda: bucket.waiting() == 0)
    assert _logged(output) == _once(paths)


def test_messages_stay_if_their_manifest_cannot_be_written(bucket: Bucket, output: Folder) -> None:
    """Nothing is deleted before it is durable."""
    _discoverer(bucket, output)._list_once(10)
    bucket.put("a")

    def refuse() -> None:
        raise RuntimeError("lost the lease")

    with pytest.raises(RuntimeError):
        _discoverer(bucket, output, refuse).follow(10, timedelta(0), threading.Event())
    assert not _logged(output)
    assert bucket.waiting() == 2


def test_the_same_picture_twice_is_one(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """Whether two messages or two records name it, in one manifest or after it; a manifest is never too large."""
    with _following(bucket, output, max_pictures=2):
        wait_for(lambda: bucket.waiting() == 0)
        bucket.send({"Records": [_record(bucket.name, "in/a"), _record(bucket.name, "in/a")]})
        bucket.send({"Records": [_record(bucket.name, f"in/{name}") for name in "abcde"]})
        bucket.send({"Records": [_record(bucket.name, "in/a")]})
        wait_for(lambda: bucket.waiting() == 0 and len(_logged(output)) == 5)
    assert _logged(output) == _once([f"{bucket.source}/{name}" for name in "abcde"])
    sizes = [len(manifests.read_manifest(output, one)) for one in manifests.manifest_ids(output)]
    assert max(sizes) <= 2


def test_what_is_not_understood_is_left_and_said_once(
    bucket: Bucket, output: Folder, wait_for: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for each message however often it comes; what else such a message says is used."""
    left = [
        "not JSON",
        "[" * 100_000,
        "[1]",
        '{"some": "thing"}',
        json.dumps({"Records": ["x"]}),
        json.dumps({"Records": [_record("another", "in/x")]}),
        json.dumps({"Records": [_record(bucket.name, "inside")]}),
        json.dumps({"Records": [_record(bucket.name, "in/x", size=-1)]}),
        json.dumps({"Records": [_record(bucket.name, "in/%ff")]}),
        json.dumps({"Records": [_record(bucket.name, "in/good"), _record(bucket.name, "elsewhere")]}),
    ]
    with _following(bucket, output):
        for body in left:
            bucket.send(body)
        wait_for(lambda: len(caplog.records) >= len(left))
        threading.Event().wait(3)  # they have come again
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(left)
    assert all("is left for the dead-letter queue: " in line and "\n" not in line for line in warnings)
    assert _logged(output) == _once([f"{bucket.source}/good"])
    threading.Event().wait(2)
    assert Counter(bucket.bodies()) == Counter(left)


def test_events_of_no_interest_go(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """Deletions, taggings, folder markers."""
    with _following(bucket, output):
        wait_for(lambda: bucket.waiting() == 0)
        bucket.s3.put_object(Bucket=bucket.name, Key="in/folder/", Body=b"")
        bucket.s3.delete_object(Bucket=bucket.name, Key="in/folder/")
        bucket.send({"Records": [_record(bucket.name, "in/x", "ObjectTagging:Put")]})
        wait_for(lambda: bucket.waiting() == 0)
    assert not _logged(output)


def test_a_deletion_that_fails_is_said_and_harmless(
    bucket: Bucket, output: Folder, wait_for: Wait, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message of ten has a receipt that SQS refuses: the rest go, it comes again, nothing is repeated."""
    receive = Queue._receive
    spoiled: list[str] = []

    def spoil(queue: Queue, limit: int, seconds: int) -> list[Message]:
        messages = receive(queue, limit, seconds)
        if messages and not spoiled:
            spoiled.append(messages[0].id)
            messages[0] = Message(messages[0].id, messages[0].body, "wrong")
        return messages

    _discoverer(bucket, output)._list_once(10)
    bucket.lose_messages()
    paths = bucket.put("a", "b", "c")
    monkeypatch.setattr(Queue, "_receive", spoil)
    with _following(bucket, output):
        wait_for(lambda: len(_logged(output)) == 3 and bucket.waiting() == 0)
    assert _logged(output) == _once(paths)
    assert f"message {spoiled[0]} could not be deleted and comes again, which repeats nothing" in caplog.text


def test_a_queue_that_is_away_is_waited_for(
    bucket: Bucket,
    output: Folder,
    server: str,
    wait_for: Wait,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line when it goes and one when it is back, however long that is."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
    forget_clients()
    impatient = S3Connection(attempts=1)
    discoverer = _discoverer(bucket, output)
    discoverer._queue = Queue(bucket.url, impatient)
    monkeypatch.setattr("streaming.events._FIRST_PAUSE", 0.05)
    monkeypatch.setattr("streaming.events._LONGEST_PAUSE", 0.1)
    with _following(bucket, output, discoverer):
        wait_for(lambda: "trying again until it is back" in caplog.text)
        threading.Event().wait(0.5)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", server)
        forget_clients()
        discoverer._queue._sqs = impatient.client("sqs")
        paths = bucket.put("a")
        wait_for(lambda: "is back" in caplog.text and len(_logged(output)) == 1)
    assert _logged(output) == _once(paths)
    assert caplog.text.count("trying again until it is back") == caplog.text.count("is back\n") == 1


def test_a_missing_queue_is_one_line(bucket: Bucket) -> None:
    """It names the queue and where to look."""
    with pytest.raises(StorageError, match=r"/nowhere: there is no such queue; check --queue"):
        Queue(f"{bucket.url.rpartition('/')[0]}/nowhere", CONNECTION).visibility()


@contextmanager
def _refusing(code: str, status: int) -> Iterator[str]:
    """The address of a server that answers every request as SQS answers one that fails."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "no"}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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
    code: str, status: int, kind: type[StorageError], told: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _refusing(code, status) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", address)
        forget_clients()
        with pytest.raises(StorageError) as caught:
            Queue("http://q", S3Connection(attempts=1)).receive(10, 0)
    assert type(caught.value) is kind
    assert told in str(caught.value)


def test_without_a_region_it_is_said(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 does without, SQS does not."""
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    forget_clients()
    with pytest.raises(StorageError, match=r"no region is set; set s3\.region or AWS_REGION"):
        Queue(bucket.url, CONNECTION)


def test_the_endpoint_of_a_store_is_not_that_of_its_queue(bucket: Bucket, server: str) -> None:
    """A store of one's own has no queues; AWS_ENDPOINT_URL says where they are."""
    connection = S3Connection(endpoint="http://127.0.0.1:1")
    assert connection.client("sqs").meta.endpoint_url == server
    assert connection.client().meta.endpoint_url == "http://127.0.0.1:1"


def test_an_interval_too_long_for_the_queue_is_refused(bucket: Bucket) -> None:
    """Messages must not come again while their manifest is still filling."""
    queue = Queue(bucket.url, CONNECTION)
    check_interval(timedelta(seconds=1), queue)
    with pytest.raises(SettingsError, match=r"1\.5s is more than half of .* 2s; .* set the timeout to 3s or more"):
        check_interval(timedelta(seconds=1.5), queue)


def test_other_roads_of_a_notification_are_understood() -> None:
    """Through SNS it is wrapped; EventBridge has a form of its own, where the key stands as it is."""
    inner = json.dumps({"Records": [_record("b", "in/a+b%2Bc")]})
    [picture] = read_notification(json.dumps({"Type": "Notification", "Message": inner}), "s3://b/in").pictures
    assert picture.path == "s3://b/in/a b+c"
    assert picture.modification_time == datetime(2026, 1, 31, 12, 0, 0, 123000, tzinfo=UTC)
    event = {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "time": "2026-01-31T12:00:00Z",
        "detail": {"bucket": {"name": "b"}, "object": {"key": "in/a+b%2Bc", "size": 3, "etag": "abc"}},
    }
    [picture] = read_notification(json.dumps(event), "s3://b/in").pictures
    assert (picture.path, picture.length, picture.etag) == ("s3://b/in/a+b%2Bc", 3, "abc")
    assert read_notification(json.dumps({**event, "detail-type": "Object Deleted"}), "s3://b/in").pictures == ()
    assert read_notification('{"source": "aws.ec2"}', "s3://b/in").problem


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_every_key_comes_back_as_it_was(key: str) -> None:
    """Whatever characters a key has, encoded as S3 encodes it."""
    body = json.dumps({"Records": [_record("b", "in/" + quote_plus(key, safe="/-_.*"), size=1)]})
    [picture] = read_notification(body, "s3://b/in").pictures
    assert picture.path == f"s3://b/in/{key}"


@given(st.text() | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(json.dumps))
def test_no_message_whatever_breaks_the_stream(body: str) -> None:
    """What is not understood is a problem with words, and no exception."""
    said = read_notification(body, "s3://b/in")
    assert said.problem
    assert not said.pictures


@given(
    st.sampled_from(["key", "size", "eTag"]),
    st.none() | st.booleans() | st.floats() | st.integers() | st.just("\ud800") | st.lists(st.none()),
)
def test_a_record_with_wrong_values_can_always_be_written_or_is_left(name: str, value: Any) -> None:
    """A manifest that cannot be read back would stop the stream for good."""
    said = read_notification(json.dumps({"Records": [_record("b", "in/x", **{name: value})]}), "s3://b/in")
    assert bool(said.problem) != bool(said.pictures)
    for picture in said.pictures:
        assert len(picture.identity) == 16
        (picture.etag or "").encode()
        assert 0 <= picture.length < 2**63


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "stream.discovery: events are of pictures on S3, and the input is "),
        ({"input": "s3://b/in"}, "stream.queue: is missing; give --queue URL"),
    ],
)
def test_events_need_s3_and_a_queue(
    place: Place, changes: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the setting, before Spark starts."""
    arguments = place.arguments("run", "--discovery", "events")
    for key, value in changes.items():
        arguments[arguments.index(f"--{key}") + 1] = value
    assert stream(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_how_to_discover_is_checked() -> None:
    with pytest.raises(SettingsError, match=r"stream.discovery: 'magic' .* 'listing' or 'events'"):
        load_settings({"stream.discovery": "magic"})


def test_a_killed_stream_of_events_loses_and_repeats_nothing(
    bucket: Bucket, place: Place, pictures: list[Path], wait_for: Wait
) -> None:
    """The whole program: pictures before the first start, between kill and restart, and after it."""

    def put(files: list[Path]) -> list[str]:
        for file in files:
            bucket.s3.upload_file(str(file), bucket.name, f"in/apple/{file.name}")
        return [f"{bucket.source}/apple/{file.name}" for file in files]

    arguments = place.arguments(
        "run", "--discovery", "events", "--queue", bucket.url, "--interval", "200ms", "--max-pictures", "5"
    )
    arguments[arguments.index("--input") + 1] = bucket.source
    paths = put(pictures[:5])
    first = start("streaming", arguments)
    wait_for(lambda: place.committed() >= 1)
    first.kill()
    first.communicate()
    paths += put(pictures[5:15])
    second = start("streaming", arguments)
    wait_for(lambda: place.committed() >= 1 and sum(place.counted().values()) >= 15)
    paths += put(pictures[15:20])
    wait_for(lambda: sum(place.counted().values()) >= 20 and bucket.waiting() == 0)
    assert stream(["stop", "--output", str(place.output)]) == 0
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert place.counted() == _once(paths)
