"""Reads on S3 that fail: what belongs to one picture is its row, what belongs to the place stops or is retried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from conf.aws.connection import S3Connection, forget_clients
from conf.errors import StorageError, TransientError
from streaming.features import reading
from streaming.features.reading import PictureReader
from streaming.features.reasons import Reason
from streaming.storage.locations import look_up
from tests.support.buckets import Bucket, new_bucket
from tests.support.failed_reads import CODES, outcome_of
from tests.support.servers import FaultyStore


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PAUSE", 0.0)


@dataclass(frozen=True)
class Cloud:
    """An input on S3, behind a proxy, and what reads it."""

    bucket: Bucket
    faulty: FaultyStore
    paths: list[str]
    connection: S3Connection

    @property
    def read(self) -> PictureReader:
        return PictureReader(100, self.connection, f"s3://{self.bucket.name}/input")


@pytest.fixture(scope="module")
def everything(versitygw_address: str) -> Iterator[Cloud]:
    """Three pictures in two folders of a store that works, behind a proxy."""
    with (
        FaultyStore(versitygw_address) as faulty,
        pytest.MonkeyPatch.context() as environment,
        new_bucket(faulty.address, environment) as bucket,
    ):
        for name in ("a/1", "a/2", "b/3"):
            bucket.s3.put_object(Bucket=bucket.name, Key=f"input/{name}", Body=name.encode())
        paths = [f"s3://{bucket.name}/input/{name}" for name in ("a/1", "a/2", "b/3")]
        yield Cloud(bucket, faulty, paths, S3Connection(endpoint=faulty.address, attempts=1))


@pytest.fixture
def cloud(everything: Cloud) -> Cloud:
    """The same without a fault."""
    faulty = everything.faulty
    faulty.failures, faulty.cut, faulty.out, faulty.refuse = {}, set(), False, 0.0
    faulty.requests.clear()
    return everything


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "NoSuchKey"),
        (403, "AccessDenied"),
        (403, "InvalidObjectState"),
        (400, "InvalidRequest"),
        (400, "KMS.DisabledException"),
        (418, "NobodyHasHeardOfThis"),
        (500, "InternalError"),
        (503, "SlowDown"),
        (400, "ExpiredToken"),
        (404, "NoSuchBucket"),
    ],
)
def test_each_kind_of_answer_is_that_pictures_or_the_places(status: int, code: str, cloud: Cloud) -> None:
    """One picture fails; then all do, although they can be listed."""
    alone, everywhere = CODES[status, code]
    cloud.faulty.failures = {"1": (status, code)}
    found, said = outcome_of(cloud.read, cloud.paths[0])
    assert found is alone
    if found in (Reason.UNREADABLE, Reason.DENIED):
        assert f"{code}: told to fail" in said
    cloud.faulty.failures = dict.fromkeys("123", (status, code))
    assert outcome_of(cloud.read, cloud.paths[0])[0] is everywhere


def test_a_picture_that_can_be_read_costs_one_request(cloud: Cloud) -> None:
    """And nothing is looked at beside it."""
    reader = cloud.read
    assert [reader(path) for path in cloud.paths] == [b"a/1", b"a/2", b"b/3"]
    assert cloud.faulty.requests == {"GET input": 3}


def test_an_answer_that_always_breaks_off_is_its_own_row(cloud: Cloud) -> None:
    """Where others come whole."""
    cloud.faulty.cut = {"1"}
    found, said = outcome_of(cloud.read, cloud.paths[0])
    assert found is Reason.UNREADABLE
    assert "IncompleteRead" in said


def test_a_store_that_does_not_answer_is_retried(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it hangs up or there is no connection, and whether or not pictures were read before."""
    reader = cloud.read
    assert reader(cloud.paths[1])
    cloud.faulty.out = True
    assert outcome_of(reader, cloud.paths[0])[0] is TransientError
    assert outcome_of(cloud.read, cloud.paths[0])[0] is TransientError
    nowhere = replace(cloud.connection, endpoint="http://127.0.0.1:1")
    assert outcome_of(PictureReader(100, nowhere, None), cloud.paths[0])[0] is TransientError


def test_a_store_that_fails_while_a_denial_is_looked_into_is_retried(cloud: Cloud) -> None:
    """Whether all is denied, or one object, cannot be told then."""
    cloud.faulty.failures, cloud.faulty.refuse = {"1": (403, "AccessDenied")}, 1.0
    assert outcome_of(cloud.read, cloud.paths[0])[0] is TransientError


def test_without_credentials_nothing_is_quarantined(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although there is no answer of the store to be looked up in the table."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    forget_clients()
    assert outcome_of(cloud.read, cloud.paths[0])[0] is StorageError
    forget_clients()


def test_a_key_that_boto3_refuses_to_ask_for_is_its_own_row(cloud: Cloud) -> None:
    """As a request may hold one."""
    assert outcome_of(cloud.read, f"s3://{cloud.bucket.name}/")[0] is Reason.UNREADABLE


def test_what_cannot_be_read_is_looked_up_in_a_listing(cloud: Cloud) -> None:
    """So a retry asks for it as it is now, and does not stop for it."""
    now = look_up(cloud.paths[0], cloud.connection)
    assert now is not None
    for failure in ((400, "InvalidRequest"), (403, "AccessDenied"), (500, "InternalError")):
        cloud.faulty.failures = {"1": failure}
        found = look_up(cloud.paths[0], cloud.connection)
        assert found is not None
        assert (found.length, found.etag) == (now.length, now.etag)
        assert abs(found.modification_time - now.modification_time).total_seconds() < 1
    cloud.faulty.failures = {"nothing": (500, "InternalError")}
    assert look_up(f"{cloud.paths[0]}/nothing", cloud.connection) is None
    cloud.faulty.out = True
    with pytest.raises(TransientError):
        look_up(cloud.paths[0], cloud.connection)
