"""The storage seam: names, listings and the two conditional writes."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.aws.connection import AWS_DEFAULTS
from conf.errors import (
    AlreadyExistsError,
    ConflictError,
    InputError,
    NotFoundError,
    SettingsError,
    StorageError,
    TransientError,
)
from conf.uris import resolve
from streaming.features.schema import label_of
from streaming.operate.parallel_listing import divide
from streaming.storage.folder import identity_of
from streaming.storage.local_folder import LocalFolder
from streaming.storage.locations import check_outside, is_inside, list_pictures, open_folder, read_picture

_names = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..")
)


def _listed(folder: Path) -> tuple[list[str], dict[str, str]]:
    skipped: dict[str, str] = {}
    found = [picture.path for picture in list_pictures(str(folder), skipped.__setitem__)]
    return [os.path.relpath(path, folder) for path in found], skipped


@given(st.lists(_names, min_size=1, max_size=4))
def test_a_plain_path_is_taken_as_it_stands(names: list[str]) -> None:
    """Percent signs, plus signs, question marks and hashes in a local path mean themselves."""
    path = "/" + "/".join(names)
    assert resolve(path) == path


@given(st.lists(_names, min_size=1, max_size=4))
def test_a_file_uri_is_decoded(names: list[str]) -> None:
    """What pathlib writes as a URI comes back as the path it was made from."""
    path = "/" + "/".join(names)
    assert resolve(Path(path).as_uri()) == path


def test_a_foreign_scheme_is_refused_by_name() -> None:
    """A location that cannot be used is named in the error."""
    with pytest.raises(SettingsError, match="'ftp://host/pictures'"):
        resolve("ftp://host/pictures")


@pytest.mark.parametrize(
    ("path", "label"),
    [("/in/Apple Red/1.jpg", "Apple Red"), ("/1.jpg", ""), ("s3://bucket/a%20b/c.jpg", "a%20b"), ("/in//x.jpg", "")],
)
def test_the_label_is_the_parent_folder_as_it_stands_in_the_path(path: str, label: str) -> None:
    """Nothing is decoded, trimmed or looked up."""
    assert label_of(path) == label


@given(st.sets(st.text(st.characters(blacklist_categories=["Cs"])), max_size=50))
def test_different_paths_have_different_identities(paths: set[str]) -> None:
    """The hash that stands for a path does not confuse any two."""
    assert len({identity_of(path) for path in paths}) == len(paths)


def test_a_folder_knows_what_is_inside_it() -> None:
    """A common prefix of letters is not a common folder."""
    assert is_inside("/data/pictures/x", "/data/pictures")
    assert is_inside("/data/pictures", "/data/pictures")
    assert not is_inside("/data/pictures2", "/data/pictures")


def test_listing_finds_every_file_whatever_its_name(tmp_path: Path) -> None:
    """Names that Spark's own file source skips in silence, or that need quoting somewhere, are all found."""
    names = ["_DSC0001.jpg", ".hidden.jpg", "a b.jpg", "é.JPG", "50%.jpg", "a+b#c?.jpg", "sub/_x/.y/z.jpg", "empty"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert sorted(_listed(tmp_path)[0]) == sorted(names)


def test_listing_ends_where_links_form_a_loop(tmp_path: Path) -> None:
    """Links to folders are not followed, and said so; a link that leads to itself is left out, and said so."""
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nothing")
    found, skipped = _listed(tmp_path)
    assert sorted(found) == ["a.jpg", "link.jpg"]
    assert sorted(os.path.relpath(path, tmp_path) for path in skipped) == ["loop", "self"]


def test_listing_says_what_it_cannot_take(tmp_path: Path) -> None:
    """A pipe, and a name that is not UTF-8, are reported instead of failing the listing."""
    os.mkfifo(tmp_path / "pipe")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"x")
    found, skipped = _listed(tmp_path)
    assert not found
    assert sorted(skipped.values()) == [
        "has a name that is not UTF-8, which no table can hold; rename it",
        "is neither a file nor a folder",
    ]


def test_a_folder_whose_name_is_not_utf8_is_left_out_with_all_in_it(tmp_path: Path) -> None:
    """No table can hold the paths in it either."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"x")
    found, skipped = _listed(tmp_path)
    assert found == ["b.jpg"]
    assert skipped == {str(folder): "has a name that is not UTF-8, which no table can hold; rename it"}
    told: dict[str, str] = {}
    shares = divide(str(tmp_path), 10, AWS_DEFAULTS, on_skip=told.__setitem__)
    assert [share.folder for share in shares] == [str(tmp_path)]
    assert told == skipped


def test_folders_may_be_nested_deeper_than_python_calls_functions(tmp_path: Path) -> None:
    folders = [str(tmp_path) + "/d" * depth for depth in range(1, 201)]
    for folder in folders:
        os.mkdir(folder)
    Path(folders[-1], "a.jpg").write_bytes(b"x")
    Path(tmp_path, "e.jpg").write_bytes(b"x")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        found, skipped = _listed(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert found == ["d/" * 200 + "a.jpg", "e.jpg"]
    assert not skipped


def test_a_missing_input_and_an_input_that_is_a_file_are_told_apart(tmp_path: Path) -> None:
    """Each gets a line that says what to do."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="no such folder"):
        list_pictures(str(tmp_path / "missing"), print)
    with pytest.raises(InputError, match="this is a file"):
        list_pictures(str(tmp_path / "file"), print)


def test_a_picture_is_read_no_further_than_one_byte_past_the_limit(tmp_path: Path) -> None:
    """A file that grew beyond the limit since it was listed cannot fill a worker's memory."""
    (tmp_path / "x").write_bytes(b"12345678")
    assert read_picture(str(tmp_path / "x"), 8) == b"12345678"
    assert read_picture(str(tmp_path / "x"), 3) == b"1234"
    with pytest.raises(NotFoundError):
        read_picture(str(tmp_path / "x/y"), 3)


def test_create_never_overwrites(tmp_path: Path) -> None:
    """The second writer of a name is told, and the first one's content stays."""
    folder = open_folder(str(tmp_path))
    folder.create("a/b", b"first")
    with pytest.raises(AlreadyExistsError):
        folder.create("a/b", b"second")
    assert folder.read("a/b") == b"first"


def test_a_link_whose_answer_was_lost_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that is asked again says that the file is there; one that another has written is refused."""
    folder, link = open_folder(str(tmp_path)), os.link

    def lose_the_answer(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", lose_the_answer)
    tag = folder.create("a", b"ours")
    assert folder.read_tagged("a") == (b"ours", tag)
    with pytest.raises(AlreadyExistsError):
        folder.create("a", b"ours")
    folder.copy("a", "b")
    assert folder.read("b") == b"ours"
    monkeypatch.undo()
    folder.create("c", b"ours")
    with pytest.raises(StorageError, match="cannot link it: File exists"):
        folder.copy("a", "c")


def test_a_file_system_that_makes_no_link_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with as many names as it can have is copied."""
    folder, link = open_folder(str(tmp_path)), os.link
    folder.create("a", b"ours")
    failure = OSError(errno.EMLINK, os.strerror(errno.EMLINK))

    def refuse(source: Path, target: Path) -> None:
        if source.name == "a" or failure.errno != errno.EMLINK:
            raise failure
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    folder.copy("a", "b")
    assert folder.read("b") == b"ours"
    for number, told in ((errno.ENOSYS, "has no hard links"), (errno.EXDEV, "is on another file system than")):
        failure = OSError(number, os.strerror(number))
        with pytest.raises(StorageError, match=told):
            folder.create("c/d", b"")


def test_a_copy_stays_what_it_is(tmp_path: Path) -> None:
    """Whatever becomes of the file that it was made from."""
    folder = open_folder(str(tmp_path))
    tag = folder.create("a/b", b"first")
    folder.copy("a/b", "c/d e/f")
    folder.replace("a/b", b"second", tag)
    assert folder.read("c/d e/f") == b"first"
    folder.delete("c/d e/f")
    assert folder.read("a/b") == b"second"
    with pytest.raises(NotFoundError):
        folder.copy("a/c", "d")


def test_of_two_replacements_at_once_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    """Compare and replace are one step, among threads as among processes."""
    folder = open_folder(str(tmp_path))
    tag = folder.create("x", b"0")
    start, told = threading.Barrier(8), []

    def replace(number: int) -> None:
        start.wait()
        try:
            folder.replace("x", str(number).encode(), tag)
        except ConflictError:
            told.append(number)

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {int(folder.read("x")), *told} == set(range(1, 9))
    assert len(told) == 7


def test_replace_refuses_what_was_deleted_meanwhile(tmp_path: Path) -> None:
    """A file that is gone does not come back by a replacement."""
    folder = open_folder(str(tmp_path))
    tag = folder.create("x", b"0")
    folder.delete("x")
    with pytest.raises(ConflictError):
        folder.replace("x", b"1", tag)
    assert not folder.exists("x")


def test_nothing_is_left_behind_under_temporary_names(tmp_path: Path) -> None:
    """Refused writes clean up after themselves."""
    folder = LocalFolder(str(tmp_path))
    folder.create("x", b"0")
    with pytest.raises(AlreadyExistsError):
        folder.create("x", b"1")
    assert list(folder.names("_tmp")) == []


def test_a_lock_that_another_process_keeps_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was paused in the middle of a write holds up others for a while, not for ever."""
    monkeypatch.setattr("streaming.storage.local_folder._LOCK_SECONDS", 0.1)
    folder = LocalFolder(str(tmp_path))
    tag = folder.create("x", b"0")
    with (tmp_path / "_tmp" / "lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TransientError, match="_tmp/lock: another process has kept this lock"):
            folder.replace("x", b"1", tag)
    folder.replace("x", b"1", tag)
    assert folder.read("x") == b"1"
    assert list(folder.names("_tmp")) == ["_tmp/lock"]


def test_the_end_of_a_file_is_read_alone(tmp_path: Path) -> None:
    """All of a file that is shorter."""
    folder = LocalFolder(str(tmp_path))
    folder.create("x", b"0123456789")
    assert (folder.read_end("x", 3), folder.read_end("x", 30)) == (b"789", b"0123456789")
    with pytest.raises(NotFoundError):
        folder.read_end("y", 3)


def test_what_killed_writes_left_is_removed_once_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A young file may still be in the making, on a machine whose clock is behind."""
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 7200)
    folder = LocalFolder(str(tmp_path))
    folder.create("x", b"0")
    for name in ("old", "young"):
        (tmp_path / "_tmp" / name).write_bytes(b"")
    os.utime(tmp_path / "_tmp" / "old", (0, 0))
    folder.remove_leftovers()
    assert list(folder.names("_tmp")) == ["_tmp/young"]


def test_a_full_disk_is_called_by_its_name() -> None:
    """The error says what is full and what to do."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(StorageError, match="the disk is full; free some space"),
        LocalFolder("/dev")._explained("full", "write"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_names_are_those_below_a_folder_and_none_if_it_is_missing(tmp_path: Path) -> None:
    """Names are relative to the root, in order."""
    folder = open_folder(str(tmp_path))
    for name in ("t/b", "t/a", "t/d=1/c", "u/x"):
        folder.create(name, b"")
    assert list(folder.names("t")) == ["t/a", "t/b", "t/d=1/c"]
    assert list(folder.names("missing")) == []
    folder.delete_tree("t")
    assert list(folder.names("t")) == []


def test_a_linked_folder_among_ours_is_refused(tmp_path: Path) -> None:
    """A day of a table that was moved to another disk: it would be left out of what is erased, counted and read."""
    folder = open_folder(str(tmp_path / "out"))
    folder.create("table/date=2026-01-31/a", b"")
    (tmp_path / "out/table/date=2026-01-31").rename(tmp_path / "moved")
    (tmp_path / "out/table/date=2026-01-31").symlink_to(tmp_path / "moved")
    with pytest.raises(StorageError, match="date=2026-01-31 is a link to a folder, and these are not followed; move"):
        list(folder.names("table"))
    (tmp_path / "out/mine").symlink_to(tmp_path / "moved")  # beside ours, as a person may have it
    (tmp_path / "out/table/date=2026-01-31").unlink()
    assert list(folder.names("")) == []


def test_what_is_deleted_while_it_is_replaced_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion waits; on S3 the store sees to that."""
    folder, replace = LocalFolder(str(tmp_path)), os.replace
    tag = folder.create("a", b"1")
    deletion = threading.Thread(target=LocalFolder(str(tmp_path)).delete, args=("a",))

    def delete_and_replace(*arguments: Any) -> None:
        deletion.start()
        deletion.join(0.2)
        replace(*arguments)

    monkeypatch.setattr(os, "replace", delete_and_replace)
    folder.replace("a", b"2", tag)
    deletion.join()
    assert not folder.exists("a")
    folder.delete("a")


@pytest.mark.parametrize(
    ("number", "passes"),
    [(errno.ESTALE, True), (errno.ETIMEDOUT, True), (errno.EMFILE, False), (errno.EIO, False), (errno.ENOLCK, False)],
)
def test_a_file_server_that_is_gone_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, passes: bool
) -> None:
    """As a store on S3 is; a disk that is broken is not, nor a file system that has no locks."""
    folder = open_folder(str(tmp_path))
    folder.create("a", b"")

    def fail(path: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(StorageError, match=f"a: cannot read it: {os.strerror(number)}") as raised:
        folder.read("a")
    assert isinstance(raised.value, TransientError) == passes


def test_a_place_inside_the_input_by_way_of_a_link_is_inside(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "input").symlink_to(tmp_path / "disk")
    for source, place in (("input", "disk/table"), ("disk", "input/table")):
        with pytest.raises(SettingsError, match=r"output: .* lies inside the input"):
            check_outside(str(tmp_path / source), {"output": str(tmp_path / place)})
    check_outside(str(tmp_path / "input"), {"output": str(tmp_path / "table")})
