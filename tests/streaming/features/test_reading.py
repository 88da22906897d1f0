"""Reads that fail: what belongs to one picture is its row, what belongs to the place stops or is retried."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from conf.aws.connection import S3Connection
from conf.errors import InputError, StorageError
from conf.failures import BY_CODE, BY_ERRNO, meaning_of
from streaming.features import reading
from streaming.features.reading import PictureReader
from streaming.features.reasons import Reason
from streaming.storage import local
from tests.support.failed_reads import CODES, ERRNOS, outcome_of


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
    found = outcome_of(read, files[0])
    assert found[0] is alone
    assert said in found[1] or alone is Reason.VANISHED
    _failing(monkeypatch, lambda path: OSError(number, os.strerror(number), path), *files)
    found = outcome_of(read, files[0])
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
    assert outcome_of(read, files[0])[0] is alone
    _failing(monkeypatch, lambda path: ClientError(answer, "GetObject"), *files)
    assert outcome_of(read, files[0])[0] is everywhere


def test_an_error_that_nobody_has_heard_of_stops_no_other_picture(
    files: list[str], read: PictureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whatever kind."""
    for error in (OSError("no number"), OSError(4242, "a number"), ZeroDivisionError("a defect"), UnicodeError("é")):
        _failing(monkeypatch, lambda path, error=error: error, files[0])  # type: ignore[misc]
        assert outcome_of(read, files[0])[0] is Reason.UNREADABLE
        _failing(monkeypatch, lambda path, error=error: error, *files)  # type: ignore[misc]
        assert outcome_of(read, files[0])[0] is StorageError


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
    found, detail = outcome_of(read, files[0])
    assert found is reason
    assert said in detail
    assert read(files[1])
    assert outcome_of(read, files[0])[0] is reason


def test_a_name_that_is_too_long_is_its_own_row(files: list[str], read: PictureReader) -> None:
    """As a request may hold one."""
    found, detail = outcome_of(read, f"{files[0]}{'x' * 300}")
    assert found is Reason.UNREADABLE
    assert "ENAMETOOLONG" in detail


def test_where_nothing_can_be_read_the_place_has_failed(files: list[str], read: PictureReader) -> None:
    """A disk that fails; the line names the picture."""
    good = read(files[2])
    for path in files:
        Path(path).unlink()
        _mem(Path(path))
    found, said = outcome_of(read, files[0])
    assert found is StorageError
    assert said == f"{files[0]}: cannot be read: EIO: Input/output error; no other picture can be read, either"
    Path(files[2]).unlink()
    Path(files[2]).write_bytes(good)
    assert outcome_of(read, files[0])[0] is Reason.UNREADABLE  # in a folder of which none can be read


def test_one_picture_alone_in_a_place_that_can_be_listed_is_its_own_row(
    files: list[str], read: PictureReader, tmp_path: Path
) -> None:
    """There is nothing to compare it with; an empty file can be opened on a broken disk, too."""
    for path in files:
        Path(path).unlink()
    Path(files[1]).touch()
    _mem(Path(files[0]))
    assert outcome_of(read, files[0])[0] is Reason.UNREADABLE
    assert outcome_of(PictureReader(100, S3Connection(), None), files[0])[0] is Reason.UNREADABLE


def test_an_input_that_is_gone_is_not_taken_for_pictures_that_are(
    files: list[str], read: PictureReader, tmp_path: Path
) -> None:
    """As when it was a disk that somebody has pulled out."""
    shutil.rmtree(tmp_path)
    found, said = outcome_of(read, files[0])
    assert found is InputError
    assert f"{tmp_path} is gone" in said


def test_meanings_do_not_change_on_the_way() -> None:
    """An error of ours has the meaning of what it was raised from."""
    error = StorageError("x")
    error.__cause__ = OSError(errno.EMFILE, "x")
    assert meaning_of(error) is meaning_of(OSError(errno.EMFILE, "x"))


def test_an_input_whose_disk_is_gone_is_not_taken_for_pictures_that_are(
    files: list[str], read: PictureReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mount point is left, empty, on another disk; a folder that was emptied is on the same, and stays an input."""
    for inside in tmp_path.iterdir():
        shutil.rmtree(inside)
    assert outcome_of(read, files[0])[0] is Reason.VANISHED
    monkeypatch.setattr(reading, "_disk_of", lambda source: -1)
    found, said = outcome_of(read, files[0])
    assert found is InputError
    assert f"{tmp_path} is gone" in said
    (tmp_path / "new").touch()  # mounted again
    assert outcome_of(read, files[0])[0] is Reason.VANISHED
