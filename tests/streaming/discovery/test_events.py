"""Discovery by event notifications: real queues and real notifications of moto's server."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from conf.aws.connection import S3Connection, forget_clients
from conf.errors import SettingsError
from conf.loading import load_settings
from streaming.__main__ import main as stream
from streaming.discovery.by_events import EventsDiscoverer
from streaming.discovery.by_listing import ListingDiscoverer, Look
from streaming.discovery.drain import Drain
from streaming.discovery.left_out import read_left_out
from streaming.discovery.messages import Sorter
from streaming.discovery.sqs import Message, Queue
from streaming.output import manifests
from streaming.output.inbox import Inbox
from streaming.output.places import Input
from streaming.storage.folder import Folder
from streaming.storage.locations import list_pictures, open_folder
from streaming.storage.names import ALL_NAMES, Names
from tests.support.queues import CONNECTION, new_notifying_bucket, record
from tests.support.queues import NotifyingBucket as Bucket
from tests.support.servers import free_port
from tests.support.streams import Place, start
from tests.support.tenures import new_log
from tests.support.trap import TrapFolder

ODD_KEYS = ["a b", "é", "a+b%20#?=&:c", "_x", ".y", "a//b", "UPPER.JPG", "日本/ü", "%2B", "100%"]
Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture
def bucket(moto_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """With a queue whose messages come again after two seconds."""
    with new_notifying_bucket(moto_address, monkeypatch) as made:
        yield made


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    folder = open_folder(str(tmp_path / "out"))
    manifests.prepare_log(folder)
    return folder


def _discoverer(
    bucket: Bucket,
    output: Folder,
    may_append: Callable[[], None] = lambda: None,
    names: Names = ALL_NAMES,
    on_look: Callable[[Look], None] = lambda look: None,
) -> EventsDiscoverer:
    log, source = new_log(output, may_append), Input(bucket.source, CONNECTION, names)
    inbox = Inbox(log)
    listing = ListingDiscoverer(source, log, inbox, timedelta(0), on_look)
    drain = Drain(Queue(bucket.url, CONNECTION), Sorter(source), timedelta(seconds=1), lambda: False)
    return EventsDiscoverer(source, drain, listing, log, inbox, on_look)


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


def test_arrivals_come_as_raw_keys_and_their_messages_go(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """A path is the key as S3 holds it; the test message of a new notification is passed over. Each look is told of."""
    looks: list[Look] = []
    with _following(bucket, output, _discoverer(bucket, output, on_look=looks.append)):
        paths = bucket.put(*ODD_KEYS)
        wait_for(lambda: bucket.waiting() == 0 and len(_logged(output)) == len(paths))
    assert _logged(output) == _once(paths)
    assert sum(look.found for look in looks) == len(paths)


def test_an_event_and_a_listing_say_the_same(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """Path, length and tag are equal, and the time but for its fraction."""
    with _following(bucket, output):
        bucket.put("a.jpg")
        wait_for(lambda: len(_logged(output)) == 1)
    [listed] = list_pictures(bucket.source, print, CONNECTION)
    [told] = manifests.read_manifest(output, manifests.manifest_ids(output)[0])
    assert (told.path, told.length, told.etag) == (listed.path, listed.length, listed.etag)
    assert told.etag == "202cb962ac59075b964b07152d234b70"
    assert abs(told.modification_time - listed.modification_time) < timedelta(minutes=1)


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


def test_a_first_listing_that_was_killed_is_done_again(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """Some pictures are known then, and the rest must not be taken for known."""
    paths = bucket.put("a", "b", "c")
    bucket.lose_messages()

    def die_at_second() -> None:
        if _logged(output):
            raise SystemExit

    with suppress(SystemExit):
        _discoverer(bucket, output, die_at_second).follow(1, timedelta(0), threading.Event())
    assert len(_logged(output)) == 1
    with _following(bucket, output):
        wait_for(lambda: len(_logged(output)) == 3)
    assert _logged(output) == _once(paths)


def test_a_first_listing_that_a_former_holder_ends_meanwhile_is_done(bucket: Bucket, output: Folder) -> None:
    """It was paused there, and has recorded it just before us."""
    bucket.put("a.jpg")
    others = _discoverer(bucket, output)
    ours = _discoverer(bucket, TrapFolder(output, 2, "paused before", partial(others._list_once, 10)))
    ours._list_once(10)
    assert len([name for name in output.names(manifests.LOG_FOLDER) if "_listed-" in name]) == 1


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
    checked = 0

    def refuse() -> None:
        nonlocal checked
        checked += 1
        if checked > before:
            raise RuntimeError("lost the lease")

    for before in (0, 1):  # then what arrived is received, which counts until SQS gives a message up
        checked = 0
        with pytest.raises(RuntimeError):
            _discoverer(bucket, output, refuse).follow(10, timedelta(0), threading.Event())
        assert before or bucket.in_flight() == 0
        assert not _logged(output)
        assert bucket.waiting() == 2


def test_the_same_picture_twice_is_one(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """Whether two messages or two records name it, in one manifest or after it; a manifest is never too large."""
    with _following(bucket, output, max_pictures=2):
        wait_for(lambda: bucket.waiting() == 0)
        bucket.send({"Records": [record(bucket.name, "in/a"), record(bucket.name, "in/a")]})
        bucket.send({"Records": [record(bucket.name, f"in/{name}") for name in "abcde"]})
        bucket.send({"Records": [record(bucket.name, "in/a")]})
        wait_for(lambda: bucket.waiting() == 0 and len(_logged(output)) == 5)
    assert _logged(output) == _once([f"{bucket.source}/{name}" for name in "abcde"])
    sizes = [len(manifests.read_manifest(output, one)) for one in manifests.manifest_ids(output)]
    assert max(sizes) <= 2


def test_what_is_not_understood_is_left_and_said_once(
    bucket: Bucket, output: Folder, wait_for: Wait, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for each message however often it comes; what else such a message says is used."""
    left = [
        "not JSON",
        "[" * 100_000,
        "[1]",
        '{"some": "thing"}',
        json.dumps({"Records": ["x"]}),
        json.dumps({"Records": [record("another", "in/x")]}),
        json.dumps({"Records": [record(bucket.name, "inside")]}),
        json.dumps({"Records": [record(bucket.name, "in/x", size=-1)]}),
        json.dumps({"Records": [record(bucket.name, "in/%ff")]}),
        json.dumps({"Records": [record(bucket.name, "in/good"), record(bucket.name, "elsewhere")]}),
    ]
    receive, came = Queue._receive, Counter[str]()

    def count(queue: Queue, limit: int, seconds: int) -> list[Message]:
        messages = receive(queue, limit, seconds)
        came.update(message.body for message in messages)
        return messages

    monkeypatch.setattr(Queue, "_receive", count)
    with _following(bucket, output):
        for body in left:
            bucket.send(body)
        wait_for(lambda: all(came[body] > 1 for body in left))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(left)
    assert all("is left for the dead-letter queue: " in line and "\n" not in line for line in warnings)
    assert _logged(output) == _once([f"{bucket.source}/good"])
    still_there: set[str] = set()

    def all_are_there() -> bool:
        still_there.update(bucket.bodies())
        return still_there == {*left}

    wait_for(all_are_there)


def test_events_of_no_interest_go(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """Deletions, taggings, folder markers."""
    with _following(bucket, output):
        wait_for(lambda: bucket.waiting() == 0)
        bucket.s3.put_object(Bucket=bucket.name, Key="in/folder/", Body=b"")
        bucket.s3.delete_object(Bucket=bucket.name, Key="in/folder/")
        bucket.send({"Records": [record(bucket.name, "in/x", "ObjectTagging:Put")]})
        wait_for(lambda: bucket.waiting() == 0)
    assert not _logged(output)


def test_ignored_names_are_no_rows_by_listing_or_by_event(bucket: Bucket, output: Folder, wait_for: Wait) -> None:
    """They are counted, and their messages go."""
    names = Names.of(load_settings({}).stream)
    paths = bucket.put("a.jpg", "_SUCCESS", "@eaDir/b.jpg")
    bucket.lose_messages()
    with _following(bucket, output, _discoverer(bucket, output, names=names)):
        wait_for(lambda: len(_logged(output)) == 1)
        paths += bucket.put("x/._c.jpg", "x/.c.jpg", "x/@eaDir/c.jpg/M.jpg")
        wait_for(lambda: bucket.waiting() == 0 and len(_logged(output)) == 2)
    assert _logged(output) == _once([paths[0], paths[4]])
    assert read_left_out(output).ignored in (2, 4)  # counts alone are written once a minute


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
            messages[0] = replace(messages[0], receipt="wrong")
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
    moto_address: str,
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
    rests: list[float] = []

    def pauses() -> Iterator[float]:
        while True:
            rests.append(0.05)
            yield rests[-1]

    monkeypatch.setattr("streaming.discovery.by_events.pauses", pauses)
    with _following(bucket, output, discoverer):
        wait_for(lambda: len(rests) > 3)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", moto_address)
        forget_clients()
        discoverer._queue._sqs = impatient.client("sqs")
        paths = bucket.put("a")
        wait_for(lambda: "taken in again" in caplog.text and len(_logged(output)) == 1)
    assert _logged(output) == _once(paths)
    assert caplog.text.count("trying again until that succeeds") == caplog.text.count("taken in again\n") == 1


@pytest.mark.parametrize("verb", ["run", "replay"])
def test_events_need_s3_and_a_queue(
    verb: str, place: Place, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the setting, before Spark starts."""
    arguments = place.arguments(verb, "--discovery", "events")
    assert stream(arguments) == 2
    assert capsys.readouterr().err.startswith(
        "error: stream.discovery: events are of pictures on S3, and the input is "
    )
    arguments[arguments.index("--input") + 1] = bucket.source
    assert stream(arguments) == 2
    assert capsys.readouterr().err.startswith("error: stream.queue: is missing; give --queue URL")


def test_how_to_discover_is_checked() -> None:
    with pytest.raises(SettingsError, match=r"stream.discovery: 'magic' .* 'listing' or 'events'"):
        load_settings({"stream.discovery": "magic"})


@pytest.mark.usefixtures("programs")
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
    wait_for(lambda: place.has(paths))
    paths += put(pictures[15:20])
    wait_for(lambda: place.has(paths) and bucket.waiting() == 0)
    assert stream(["stop", "--output", str(place.output)]) == 0
    said, _ = second.communicate(timeout=180)
    assert second.returncode == 0, said
    assert place.counted() == _once(paths)
