"""A store that is slow, fails, or denies: every picture ends up exactly once, and none in quarantine for a fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conf.aws.connection import S3Connection
from conf.errors import TransientError
from streaming.storage.locations import open_folder
from tests.support.buckets import Bucket, new_bucket, reach_through
from tests.support.servers import FaultyStore
from tests.support.streams import start

pytestmark = pytest.mark.usefixtures("programs")

Wait = Callable[..., None]


@pytest.fixture
def faulty(versitygw_address: str) -> Iterator[FaultyStore]:
    """A proxy before it."""
    with FaultyStore(versitygw_address) as proxy:
        yield proxy


@pytest.fixture
def bucket(versitygw_address: str, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket with a model; the test itself reaches it without faults."""
    with new_bucket(versitygw_address, monkeypatch) as made:
        made.put_tree(fitted, "models")
        yield made


def test_slow_failing_and_breaking_requests_harm_no_picture(
    bucket: Bucket, faulty: FaultyStore, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request in ten is refused, one in twenty breaks off, each takes 30 ms longer."""
    paths = bucket.put(pictures[:40])
    faulty.refuse, faulty.reset, faulty.delay = 0.1, 0.05, 0.03
    reach_through(faulty.address, monkeypatch)
    assert bucket.replay("--max-pictures", "20") == 0
    assert faulty.faults > 10
    assert bucket.counted() == dict.fromkeys(paths, 1)
    assert len(bucket.rows()) == len(paths)


def test_an_outage_is_waited_out(bucket: Bucket, faulty: FaultyStore, pictures: list[Path], wait_for: Wait) -> None:
    """The store is gone in mid-stream for longer than the lease; what arrives meanwhile is featurized later."""
    paths = bucket.put(pictures[:20])
    settings = ["--interval", "200ms", "--max-pictures", "5", "--lease", "10s"]
    stream = start("streaming", bucket.arguments("run", *settings), AWS_ENDPOINT_URL=faulty.address)
    wait_for(lambda: bucket.committed() >= 1)
    faulty.out = True
    paths += bucket.put(pictures[20:40])
    with pytest.raises(AssertionError, match="waited in vain"):
        wait_for(lambda: stream.poll() is not None, 15)
    faulty.out = False
    wait_for(lambda: bucket.has(paths))
    stream.terminate()
    said, _ = stream.communicate(timeout=180)
    assert stream.returncode == 0, said
    assert "trying again" in said
    assert bucket.counted() == dict.fromkeys(paths, 1)
    assert len(bucket.rows()) == len(paths)


def test_a_permanent_failure_stops_the_stream_with_one_line(
    bucket: Bucket, faulty: FaultyStore, pictures: list[Path], wait_for: Wait
) -> None:
    """Trying again would not help; after renewal nothing is lost or repeated."""
    paths: list[str] = []
    arguments = bucket.arguments("run", "--interval", "200ms", "--max-pictures", "5")
    for number, denial in enumerate(("ExpiredToken", "AccessDenied")):
        before = bucket.committed() if number else 0
        paths += bucket.put(pictures[10 * number : 10 * number + 10])
        stream = start("streaming", arguments, AWS_ENDPOINT_URL=faulty.address)
        wait_for(lambda before=before: bucket.committed() > before)
        faulty.denial = denial
        said, _ = stream.communicate(timeout=180)
        assert stream.returncode == 6, said
        # Whoever asks next is the first: Spark for the manifests, discovery for the input, or the micro-batch.
        assert re.search("the AWS credentials|grant s3:", said.splitlines()[-1]), said
        faulty.denial = None
    assert bucket.replay() == 0
    assert bucket.counted() == dict.fromkeys(paths, 1)


def test_single_objects_that_cannot_be_read_are_quarantined(
    bucket: Bucket, faulty: FaultyStore, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others get their rows, in the same manifest and the next ones."""
    paths = bucket.put(pictures[:10])
    answers = [
        ((403, "AccessDenied"), "denied"),
        ((403, "InvalidObjectState"), "archived"),
        ((404, "NoSuchKey"), "vanished"),
        ((400, "InvalidRequest"), "unreadable"),
        ((400, "KMS.KMSInvalidStateException"), "unreadable"),
        ((500, "InternalError"), "unreadable"),
    ]
    bad = paths[:6]
    faulty.failures = {path.rpartition("/")[2]: answer for path, (answer, _) in zip(bad, answers, strict=True)}
    monkeypatch.setenv("PICTURE_FEATURES_S3__ATTEMPTS", "1")
    reach_through(faulty.address, monkeypatch)
    assert bucket.replay("--max-pictures", "5") == 0
    assert bucket.counted() == dict.fromkeys(paths, 1)
    rows = {row["path"]: row for row in bucket.rows("quarantine").to_pylist()}
    assert {path: row["reason"] for path, row in rows.items()} == dict(
        zip(bad, [reason for _, reason in answers], strict=True)
    )
    for path, ((_, code), reason) in zip(bad, answers, strict=True):
        assert rows[path]["sha256"] is None
        assert f"{code}: told to fail" in rows[path]["detail"] or reason in ("archived", "vanished")


def test_a_write_that_meets_another_is_tried_again(bucket: Bucket, faulty: FaultyStore) -> None:
    """S3 says so while both are under way, and nobody knows yet whether there will be a file."""
    folder = open_folder(bucket.uri("folder"), S3Connection(endpoint=faulty.address))
    faulty.denials = {"new": "ConditionalRequestConflict"}
    with pytest.raises(TransientError, match="ConditionalRequestConflict"):
        folder.create("new", b"1")
    faulty.denials = {}
    folder.create("new", b"1")


def test_a_stream_without_work_looks_for_none_in_the_bucket(
    bucket: Bucket, faulty: FaultyStore, pictures: list[Path], wait_for: Wait
) -> None:
    """Each look would be paid for; the next picture is done all the same, as it was found by the stream itself."""
    looks, asks = "LIST output/_manifests", "GET output/_drain"
    paths = bucket.put(pictures[:4])
    settings = ["--interval", "200ms", "--epoch-manifests", "2"]
    stream = start("tests.support.resting", bucket.arguments("run", *settings), AWS_ENDPOINT_URL=faulty.address)

    def rests() -> bool:
        """Whether it looks no more often than once a second, as it asks whether to stop; a query looks twice."""
        before = faulty.requests.copy()
        wait_for(lambda: faulty.requests[asks] >= before[asks] + 3)
        return faulty.requests[looks] - before[looks] < 4

    for number in range(4, 7):
        wait_for(lambda: bucket.has(paths))
        wait_for(rests)
        paths.extend(bucket.put(pictures[number : number + 1]))
    wait_for(lambda: bucket.has(paths))
    stream.terminate()
    said, _ = stream.communicate(timeout=180)
    assert stream.returncode == 0, said
    assert bucket.counted() == dict.fromkeys(paths, 1)
