"""Reads that fail: what belongs to one picture is its row, what belongs to the place stops or is retried."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from conf.aws.connection import S3Connection, forget_clients
from conf.errors import AppError, InputError, StorageError, TransientError
from conf.failures import BY_CODE, BY_ERRNO, meaning_of
from streaming.features import reading
from streaming.features.imaging import Rejected
from streaming.features.reading import PictureReader
from streaming.features.schema import Reason
from streaming.storage import local
from streaming.storage.locations import look_up
from tests.support.buckets import Bucket, new_bucket
from tests.support.servers import FaultyStore

Outcome = Reason | type[AppError]

DENIED = (Reason.DENIED, StorageError)
DOUBTFUL = (Reason.UNREADABLE, StorageError)
PASSING = (Reason.UNREADABLE, TransientError)
STOPS = (StorageError, StorageError)
WAITS = (TransientError, TransientError)

CODES: dict[tuple[int, str], tuple[Outcome, Outcome]] = {
    **dict.fromkeys([(404, "NoSuchKey"), (404, "NoSuchVersion"), (404, "NotFound")], (Reason.VANISHED,) * 2),
    **dict.fromkeys([(403, "AccessDenied"), (403, "AccessDeniedException"), (403, "AllAccessDisabled")], DENIED),
    (403, "InvalidObjectState"): (Reason.ARCHIVED,) * 2,
    (400, "KeyTooLongError"): (Reason.UNREADABLE,) * 2,
    **dict.fromkeys(
        [
            (400, "InvalidArgument"),
            (400, "InvalidRequest"),
            (400, "KMS.AccessDeniedException"),
            (400, "KMS.DisabledException"),
            (400, "KMS.IncorrectKeyException"),
            (400, "KMS.InvalidKeyUsageException"),
            (400, "KMS.InvalidStateException"),
            (400, "KMS.KMSInvalidStateException"),
            (400, "KMS.NotFoundException"),
            (405, "MethodNotAllowed"),
            (411, "MissingContentLength"),
            (412, "PreconditionFailed"),
            (416, "InvalidRange"),
            (418, "NobodyHasHeardOfThis"),
            (400, ""),
        ],
        DOUBTFUL,
    ),
    **dict.fromkeys(
        [
            (409, "ConditionalRequestConflict"),
            (500, "InternalError"),
            (500, "KMS.DependencyTimeoutException"),
            (500, "KMS.KMSInternalException"),
            (500, "KMS.KeyUnavailableException"),
            (409, "OperationAborted"),
            (400, "RequestTimeout"),
            (503, "ServiceUnavailable"),
            (503, "SlowDownRead"),
            (507, "NobodyHasHeardOfThis"),
        ],
        PASSING,
    ),
    **dict.fromkeys(
        [
            (400, "KMS.ThrottlingException"),
            (400, "KmsThrottled"),
            (400, "OverLimit"),
            (400, "RequestThrottled"),
            (503, "SlowDown"),
            (400, "Throttling"),
            (400, "ThrottlingException"),
            (429, "TooManyRequests"),
            (429, "NobodyHasHeardOfThis"),
        ],
        WAITS,
    ),
    **dict.fromkeys(
        [
            (403, "AccountProblem"),
            (400, "AuthorizationHeaderMalformed"),
            (400, "ExpiredToken"),
            (400, "ExpiredTokenException"),
            (400, "IllegalLocationConstraintException"),
            (403, "InvalidAccessKeyId"),
            (400, "InvalidBucketName"),
            (403, "InvalidClientTokenId"),
            (403, "InvalidSecurity"),
            (400, "InvalidToken"),
            (404, "NoSuchBucket"),
            (403, "NotSignedUp"),
            (301, "PermanentRedirect"),
            (400, "RequestExpired"),
            (403, "RequestTimeTooSkewed"),
            (403, "SignatureDoesNotMatch"),
            (400, "TokenRefreshRequired"),
            (403, "UnrecognizedClientException"),
            (401, "NobodyHasHeardOfThis"),
        ],
        STOPS,
    ),
}
"""What becomes of a picture whose GET is answered so: if others can be read, and if every GET is answered so."""

ERRNOS: dict[int, tuple[Outcome, Outcome]] = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR), (Reason.VANISHED,) * 2),
    **dict.fromkeys((errno.EACCES, errno.EPERM), DENIED),
    **dict.fromkeys((errno.ELOOP, errno.ENAMETOOLONG), (Reason.UNREADABLE,) * 2),
    **dict.fromkeys((errno.EBADMSG, errno.EFBIG, errno.EINVAL, errno.EIO), DOUBTFUL),
    **dict.fromkeys((errno.ENODATA, errno.ENODEV, errno.ENXIO, errno.EOVERFLOW, errno.ENOSPC), DOUBTFUL),
    **dict.fromkeys((errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN), PASSING),
    **dict.fromkeys((errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH), PASSING),
    **dict.fromkeys((errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT), PASSING),
    **dict.fromkeys((errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE), WAITS),
    **dict.fromkeys((errno.ENOBUFS, errno.ENOLCK, errno.ENOMEM), WAITS),
}
"""The same for files."""


def _outcome(read: Callable[[str], bytes], path: str) -> tuple[Outcome, str]:
    with pytest.raises((Rejected, AppError)) as caught:
        read(path)
    if isinstance(caught.value, Rejected):
        return caught.value.reason, caught.value.detail
    assert isinstance(caught.value, AppError)
    assert str(caught.value).startswith(path)
    return type(caught.value), str(caught.value)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PAUSE", 0.0)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Pictures in an input of two folders."""
    paths = []
    for name in ("a/1", "a/2", "b/3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
        paths.append(str(tmp_path / name))
    return paths


@pytest.fixture
def read(tmp_path: Path) -> PictureReader:
    """Reads them."""
    return PictureReader(100, S3Connection(), str(tmp_path))


def _failing(monkeypatch: pytest.MonkeyPatch, error: Callable[[str], Exception], *paths: str) -> None:
    def failing(path: str, mode: str) -> Any:
        if path in paths:
            raise error(path)
        return open(path, mode)

    monkeypatch.setattr(local, "open", failing, raising=False)


def test_the_table_has_no_row_that_is_not_tested() -> None:
    """Those of statuses as code are what a HEAD is answered with."""
    tested = {code for _, code in CODES}
    assert {code for code in BY_CODE if not code.isdigit()} <= tested
    assert {BY_CODE[code] for code in BY_CODE if code.isdigit()} <= {BY_CODE[code] for code in tested & {*BY_CODE}}
    assert {*BY_ERRNO} <= {*ERRNOS}


@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
def test_each_errno_is_that_pictures_or_the_places(
    number: int, files: list[str], read: PictureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture fails; then all do."""
    alone, everywhere = ERRNOS[number]
    _failing(monkeypatch, lambda path: OSError(number, os.strerror(number), path), files[0])
    said = errno.errorcode[number]
    found = _outcome(read, files[0])
    assert found[0] is alone
    assert said in found[1] or alone is Reason.VANISHED
    _failing(monkeypatch, lambda path: OSError(number, os.strerror(number), path), *files)
    found = _outcome(read, files[0])
    assert found[0] is everywhere
    assert said in found[1] or everywhere is Reason.VANISHED


@pytest.mark.parametrize(("status", "code"), CODES)
def test_each_code_is_that_pictures_or_the_places(
    status: int, code: str, files: list[str], read: PictureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As S3 gives them."""
    answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    alone, everywhere = CODES[status, code]
    _failing(monkeypatch, lambda path: ClientError(answer, "GetObject"), files[0])
    assert _outcome(read, files[0])[0] is alone
    _failing(monkeypatch, lambda path: ClientError(answer, "GetObject"), *files)
    assert _outcome(read, files[0])[0] is everywhere


def test_an_error_that_nobody_has_heard_of_stops_no_other_picture(
    files: list[str], read: PictureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whatever kind."""
    for error in (OSError("no number"), OSError(4242, "a number"), ZeroDivisionError("a defect"), UnicodeError("é")):
        _failing(monkeypatch, lambda path, error=error: error, files[0])  # type: ignore[misc]
        assert _outcome(read, files[0])[0] is Reason.UNREADABLE
        _failing(monkeypatch, lambda path, error=error: error, *files)  # type: ignore[misc]
        assert _outcome(read, files[0])[0] is StorageError


def test_memory_is_not_the_pictures(files: list[str], read: PictureReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what an expendable process is for."""
    _failing(monkeypatch, lambda path: MemoryError(), files[0])
    with pytest.raises(MemoryError):
        read(files[0])


@pytest.mark.parametrize("numbers", [[errno.EIO], [errno.ESTALE], [errno.ETIMEDOUT, errno.ESTALE]])
def test_what_fails_for_a_moment_is_read(
    numbers: list[int], files: list[str], read: PictureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was exchanged on a file server is opened again."""
    failures = iter([OSError(number, "for a moment") for number in numbers])

    def failing(path: str, mode: str) -> Any:
        if path == files[0] and (error := next(failures, None)):
            raise error
        return open(path, mode)

    monkeypatch.setattr(local, "open", failing, raising=False)
    assert read(files[0]) == b"a/1"


def _mem(path: Path) -> None:
    path.symlink_to("/proc/self/mem")  # whose first byte cannot be read: EIO


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("make", "reason", "said"),
    [
        (_mem, Reason.UNREADABLE, "EIO: Input/output error"),
        (lambda path: path.symlink_to(path), Reason.UNREADABLE, "ELOOP: "),
        (_socket, Reason.UNREADABLE, "ENXIO: it is not a regular file any more"),
        (os.mkfifo, Reason.UNREADABLE, "ENXIO: it is not a regular file any more"),
        (lambda path: path.symlink_to("/dev/zero"), Reason.UNREADABLE, "ENXIO: it is not a regular file any more"),
        (Path.mkdir, Reason.VANISHED, "disappeared"),
        (lambda path: path.symlink_to(path.parent / "nothing"), Reason.VANISHED, "disappeared"),
    ],
    ids=["mem", "loop", "socket", "pipe", "endless", "folder", "dangling"],
)
def test_what_a_file_became_since_it_was_listed_is_its_own_row(
    make: Callable[[Path], object],
    reason: Reason,
    said: str,
    files: list[str],
    read: PictureReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is neither awaited nor read without an end."""
    bad = Path(files[0])
    monkeypatch.chdir(bad.parent)
    bad.unlink()
    make(bad)
    found, detail = _outcome(read, files[0])
    assert found is reason
    assert said in detail
    assert read(files[1])
    assert _outcome(read, files[0])[0] is reason


def test_a_name_that_is_too_long_is_its_own_row(files: list[str], read: PictureReader) -> None:
    """As a request may hold one."""
    found, detail = _outcome(read, f"{files[0]}{'x' * 300}")
    assert found is Reason.UNREADABLE
    assert "ENAMETOOLONG" in detail


def test_where_nothing_can_be_read_the_place_has_failed(files: list[str], read: PictureReader) -> None:
    """A disk that fails; the line names the picture."""
    good = read(files[2])
    for path in files:
        Path(path).unlink()
        _mem(Path(path))
    found, said = _outcome(read, files[0])
    assert found is StorageError
    assert said == f"{files[0]}: cannot be read: EIO: Input/output error; no other picture can be read, either"
    Path(files[2]).unlink()
    Path(files[2]).write_bytes(good)
    assert _outcome(read, files[0])[0] is Reason.UNREADABLE  # in a folder of which none can be read


def test_one_picture_alone_in_a_place_that_can_be_listed_is_its_own_row(
    files: list[str], read: PictureReader, tmp_path: Path
) -> None:
    """There is nothing to compare it with; an empty file can be opened on a broken disk, too."""
    for path in files:
        Path(path).unlink()
    Path(files[1]).touch()
    _mem(Path(files[0]))
    assert _outcome(read, files[0])[0] is Reason.UNREADABLE
    assert _outcome(PictureReader(100, S3Connection(), None), files[0])[0] is Reason.UNREADABLE


def test_an_input_that_is_gone_is_not_taken_for_pictures_that_are(
    files: list[str], read: PictureReader, tmp_path: Path
) -> None:
    """As when it was a disk that somebody has pulled out."""
    shutil.rmtree(tmp_path)
    found, said = _outcome(read, files[0])
    assert found is InputError
    assert f"{tmp_path} is gone" in said


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
    found, said = _outcome(cloud.read, cloud.paths[0])
    assert found is alone
    if found in (Reason.UNREADABLE, Reason.DENIED):
        assert f"{code}: told to fail" in said
    cloud.faulty.failures = dict.fromkeys("123", (status, code))
    assert _outcome(cloud.read, cloud.paths[0])[0] is everywhere


def test_a_picture_that_can_be_read_costs_one_request(cloud: Cloud) -> None:
    """And nothing is looked at beside it."""
    reader = cloud.read
    assert [reader(path) for path in cloud.paths] == [b"a/1", b"a/2", b"b/3"]
    assert cloud.faulty.requests == {"GET input": 3}


def test_an_answer_that_always_breaks_off_is_its_own_row(cloud: Cloud) -> None:
    """Where others come whole."""
    cloud.faulty.cut = {"1"}
    found, said = _outcome(cloud.read, cloud.paths[0])
    assert found is Reason.UNREADABLE
    assert "IncompleteRead" in said


def test_a_store_that_does_not_answer_is_retried(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it hangs up or there is no connection, and whether or not pictures were read before."""
    reader = cloud.read
    assert reader(cloud.paths[1])
    cloud.faulty.out = True
    assert _outcome(reader, cloud.paths[0])[0] is TransientError
    assert _outcome(cloud.read, cloud.paths[0])[0] is TransientError
    nowhere = replace(cloud.connection, endpoint="http://127.0.0.1:1")
    assert _outcome(PictureReader(100, nowhere, None), cloud.paths[0])[0] is TransientError


def test_a_store_that_fails_while_a_denial_is_looked_into_is_retried(cloud: Cloud) -> None:
    """Whether all is denied, or one object, cannot be told then."""
    cloud.faulty.failures, cloud.faulty.refuse = {"1": (403, "AccessDenied")}, 1.0
    assert _outcome(cloud.read, cloud.paths[0])[0] is TransientError


def test_without_credentials_nothing_is_quarantined(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although there is no answer of the store to be looked up in the table."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    forget_clients()
    assert _outcome(cloud.read, cloud.paths[0])[0] is StorageError
    forget_clients()


def test_a_key_that_boto3_refuses_to_ask_for_is_its_own_row(cloud: Cloud) -> None:
    """As a request may hold one."""
    assert _outcome(cloud.read, f"s3://{cloud.bucket.name}/")[0] is Reason.UNREADABLE


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


def test_meanings_do_not_change_on_the_way() -> None:
    """An error of ours has the meaning of what it was raised from."""
    error = StorageError("x")
    error.__cause__ = OSError(errno.EMFILE, "x")
    assert meaning_of(error) is meaning_of(OSError(errno.EMFILE, "x"))
