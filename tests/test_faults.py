"""A store that is slow, fails, or denies: every picture ends up exactly once, and none in quarantine for a fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conf.errors import TransientError
from conf.s3 import S3Connection
from streaming.features.storage import open_folder, read_picture, resolve
from tests.buckets import Bucket, new_bucket
from tests.servers import FaultyStore, versitygw
from tests.streams import run, start

Wait = Callable[..., None]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a store that works."""
    with versitygw() as address:
        yield address


@pytest.fixture
def faulty(server: str) -> Iterator[FaultyStore]:
    """A proxy before it."""
    with FaultyStore(server) as proxy:
        yield proxy


@pytest.fixture
def bucket(server: str, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket with a model; the test itself reaches it without faults."""
    with new_bucket(server, monkeypatch) as made:
        made.put_tree(fitted, "models")
        yield made


def test_slow_failing_and_breaking_requests_harm_no_picture(
    bucket: Bucket, faulty: FaultyStore, pictures: list[Path]
) -> None:
    """One request in ten is refused, one in twenty breaks off, each takes 30 ms longer."""
    paths = bucket.put(pictures)
    faulty.refuse, faulty.reset, faulty.delay = 0.1, 0.05, 0.03
    done = run("streaming", bucket.arguments("replay", "--max-pictures", "25"), AWS_ENDPOINT_URL=faulty.address)
    assert done.returncode == 0, done.stdout
    assert faulty.faults > 10
    assert bucket.counted() == dict.fromkeys(paths, 1)
    assert len(bucket.rows()) == len(paths)


def test_an_outage_is_waited_out(bucket: Bucket, faulty: FaultyStore, pictures: list[Path], wait_for: Wait) -> None:
    """The store is gone for 30 s in mid-stream, longer than the lease; what arrives meanwhile is featurized later."""
    paths = bucket.put(pictures[:20])
    settings = ["--interval", "200ms", "--max-pictures", "5", "--lease", "10s"]
    stream = start("streaming", bucket.arguments("run", *settings), AWS_ENDPOINT_URL=faulty.address)
    wait_for(lambda: bucket.committed() >= 1)
    faulty.out = True
    paths += bucket.put(pictures[20:40])
    with pytest.raises(AssertionError, match="waited in vain"):
        wait_for(lambda: stream.poll() is not None, 30)
    faulty.out = False
    wait_for(lambda: sum(bucket.counted().values()) >= 40, 120)
    stream.terminate()
    said, _ = stream.communicate(timeout=60)
    assert stream.returncode == 0, said
    assert "trying again" in said
    assert bucket.counted() == dict.fromkeys(paths, 1)
    assert len(bucket.rows()) == len(paths)


@pytest.mark.parametrize("denial", ["ExpiredToken", "AccessDenied"])
def test_what_waiting_cannot_mend_stops_the_stream_with_one_line(
    denial: str, bucket: Bucket, faulty: FaultyStore, pictures: list[Path], wait_for: Wait
) -> None:
    """Trying again would not help; after renewal nothing is lost or repeated."""
    paths = bucket.put(pictures[:10])
    arguments = bucket.arguments("run", "--interval", "200ms", "--max-pictures", "5")
    stream = start("streaming", arguments, AWS_ENDPOINT_URL=faulty.address)
    wait_for(lambda: bucket.committed() >= 1)
    faulty.denial = denial
    said, _ = stream.communicate(timeout=60)
    assert stream.returncode == 6, said
    # Either of the two who ask may be the first: Spark for the checkpoint, or discovery for the input.
    assert re.search("the AWS credentials|grant s3:ListBucket", said.splitlines()[-1]), said
    faulty.denial = None
    again = run("streaming", bucket.arguments("replay", "--lease", "10s"), AWS_ENDPOINT_URL=faulty.address)
    assert again.returncode == 0, again.stdout
    assert bucket.counted() == dict.fromkeys(paths, 1)


def test_single_objects_that_are_denied_archived_or_gone_are_quarantined(
    bucket: Bucket, faulty: FaultyStore, pictures: list[Path]
) -> None:
    """The others get their rows."""
    paths = bucket.put(pictures[:6])
    first, second, third, *_ = [path.rpartition("/")[2] for path in paths]
    faulty.denials = {first: "AccessDenied", second: "InvalidObjectState", third: "NoSuchKey"}
    done = run("streaming", bucket.arguments("replay"), AWS_ENDPOINT_URL=faulty.address)
    assert done.returncode == 0, done.stdout
    quarantine = bucket.rows("quarantine")
    assert dict(zip(quarantine["path"].to_pylist(), quarantine["reason"].to_pylist(), strict=True)) == {
        paths[0]: "denied",
        paths[1]: "archived",
        paths[2]: "vanished",
    }
    assert len(bucket.rows()) == 3


def test_a_write_that_meets_another_is_tried_again(bucket: Bucket, faulty: FaultyStore) -> None:
    """S3 says so while both are under way, and nobody knows yet whether there will be a file."""
    folder = open_folder(bucket.uri("folder"), S3Connection(endpoint=faulty.address))
    faulty.denials = {"new": "ConditionalRequestConflict"}
    with pytest.raises(TransientError, match="ConditionalRequestConflict"):
        folder.create("new", b"1")
    faulty.denials = {}
    folder.create("new", b"1")


def test_a_store_that_fails_while_a_denial_is_looked_into_is_waited_for(bucket: Bucket, faulty: FaultyStore) -> None:
    """Whether all is denied, or one object, cannot be told then."""
    faulty.denials, faulty.refuse = {"one.jpg": "AccessDenied"}, 1.0
    with pytest.raises(TransientError, match="SlowDown"):
        read_picture(resolve(bucket.uri("input/one.jpg")), 100, S3Connection(endpoint=faulty.address, attempts=1))
