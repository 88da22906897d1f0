"""Discovery, the manifest log and the memory of what was seen; no Spark needed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conf.errors import InputError
from streaming.discovery.by_listing import DiscoveryThread, ListingDiscoverer, Look
from streaming.output import known, manifests
from streaming.output.inbox import Inbox
from streaming.output.known import KnownPictures
from streaming.output.places import Input
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import list_pictures
from tests.support.tenures import LooseTenure, new_listing, new_log

NOW = datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)


def _put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def _discoverer(
    source: Path, output: Folder, settle: float = 0, may_append: Callable[[], None] = lambda: None
) -> ListingDiscoverer:
    return new_listing(Input(str(source)), output, settle, may_append)


def _logged(output: Folder) -> list[str]:
    """The names of all pictures in the log, in the order in which they were found."""
    log = [manifests.read_manifest(output, manifest) for manifest in manifests.manifest_ids(output)]
    return [os.path.basename(picture.path) for pictures in log for picture in pictures]


def test_a_manifest_comes_back_as_it_was_written(output: Folder) -> None:
    """Any path, and times to the microsecond; the id gives the day of its files in the tables."""
    pictures = [
        StoredPicture('/in/a b%20+\n"é\u2028.jpg', 7, NOW, None),
        StoredPicture("s3://b/k", 0, datetime(1969, 12, 31, tzinfo=UTC), '"tag"'),
    ]
    manifest = manifests.append_manifest(output, pictures, NOW)
    assert manifests.read_manifest(output, manifest) == pictures
    assert manifests.manifest_ids(output) == [manifest]
    assert manifests.written_at(manifest) == NOW
    assert manifests.table_file("features", manifest) == f"features/date=2026-01-31/{manifest}.parquet"


def test_each_picture_is_found_once(source: Path, output: Folder) -> None:
    """A second look, and a second process, find only what is new."""
    _put(source, *(f"{number:04}.jpg" for number in range(2500)))
    first = _discoverer(source, output)
    assert first.look(1000).found == 2500
    assert [len(manifests.read_manifest(output, one)) for one in manifests.manifest_ids(output)] == [1000, 1000, 500]
    assert first.look(1000).found == 0
    _put(source, "new.jpg")
    second = _discoverer(source, output)
    assert second.has_new()
    assert second.look(1000).found == 1
    assert not second.has_new()
    assert len(set(_logged(output))) == len(_logged(output)) == 2501


def test_an_entry_that_is_listed_twice_is_one_picture(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File servers may do so in a large folder while other entries come or go."""
    _put(source, "a.jpg", "b.jpg")
    list_once = Input.pictures
    monkeypatch.setattr(Input, "pictures", lambda *given: chain(list_once(*given), list_once(*given)))
    _discoverer(source, output).look(10)
    assert sorted(_logged(output)) == ["a.jpg", "b.jpg"]


def test_a_look_is_broken_off_when_the_stream_stops(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing of millions takes minutes; what was found is kept, and nothing says that all was seen."""
    _put(source, *(f"{number}.jpg" for number in range(5)))
    monkeypatch.setattr("streaming.discovery.by_listing._PAGE", 2)
    leave, told = threading.Event(), list[Look]()
    log = new_log(output)
    discoverer = ListingDiscoverer(Input(str(source)), log, Inbox(log), timedelta(0), told.append)
    leave.set()
    look = discoverer.look(10, leave)
    assert (look.whole, look.listed, len(_logged(output)), told) == (False, 2, 2, [])
    assert discoverer.look(10).found == 3
    assert [one.whole for one in told] == [True]


def test_the_first_manifest_of_a_look_is_smaller(source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog has its first rows soon."""
    monkeypatch.setattr("streaming.discovery.by_listing._FIRST", 20)
    _put(source, *(f"{number:03}.jpg" for number in range(100)))
    _discoverer(source, output).look(50)
    assert [len(manifests.read_manifest(output, one)) for one in manifests.manifest_ids(output)] == [20, 50, 30]


def test_an_overwritten_picture_is_not_read_again(source: Path, output: Folder) -> None:
    """A picture is its key."""
    _put(source, "a.jpg")
    discoverer = _discoverer(source, output)
    discoverer.look(10)
    (source / "a.jpg").write_bytes(b"something else")
    assert discoverer.look(10).found == 0


class _Clocks:
    """This machine's clocks, which stand still: `wait` moves them on; `differ` sets the one against file times.

    Other threads of this process, such as Spark's, sleep in real time and leave them alone.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._waited, self._apart, self._real = 0.0, 0.0, time.time
        self._sleep, self._thread = time.sleep, threading.get_ident()
        monkeypatch.setattr(time, "monotonic", lambda: self._waited)
        monkeypatch.setattr(time, "time", lambda: self._real() + self._apart)
        monkeypatch.setattr(time, "sleep", self._wait_or_sleep)

    def _wait_or_sleep(self, seconds: float) -> None:
        (self.wait if threading.get_ident() == self._thread else self._sleep)(seconds)

    def wait(self, seconds: float) -> None:
        self._waited += seconds

    def differ(self, seconds: float) -> None:
        self._apart = seconds

    @property
    def waited(self) -> float:
        return self._waited


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> _Clocks:
    return _Clocks(monkeypatch)


@pytest.mark.parametrize("ahead", [0, 5, -5, 30, -300, -86400 * 9000], ids=lambda seconds: f"{seconds}s ahead")
def test_a_file_that_is_being_written_at_the_start_is_left_until_it_rests(
    source: Path, output: Folder, clocks: _Clocks, ahead: float
) -> None:
    """Whatever the clock of its server says: this one is ahead, or behind."""
    clocks.differ(ahead)
    discoverer = _discoverer(source, output, settle=2)
    for length in range(1, 4):
        (source / "a.jpg").write_bytes(b"x" * length)
        look = discoverer.look(10)
        assert (look.listed, look.found, look.unsettled) == (1, 0, 1)
        clocks.wait(3)
    assert discoverer.look(10).unsettled == 0
    assert [picture.length for picture in manifests.read_manifest(output, manifests.manifest_ids(output)[0])] == [3]


@pytest.mark.parametrize("ahead", [0, 3600, -3600, 86400 * 9000], ids=lambda seconds: f"{seconds}s ahead")
def test_what_appears_later_is_new_whatever_its_times_say(
    source: Path, output: Folder, clocks: _Clocks, ahead: float
) -> None:
    """Two looks decide, so a server whose clock is an hour or decades behind shows no half of a file."""
    clocks.differ(ahead)
    discoverer = _discoverer(source, output, settle=2)
    discoverer.look(10)
    _put(source, "a.jpg")
    os.utime(source / "a.jpg", (0, 0))
    assert discoverer.look(10).unsettled == 1
    clocks.wait(1.9)
    assert discoverer.look(10).unsettled == 1
    clocks.wait(0.1)
    assert discoverer.look(10).found == 1


def test_only_length_and_times_count_not_how_often_one_looks(source: Path, output: Folder, clocks: _Clocks) -> None:
    """A writer that pauses for less than `settle` is waited for; one that keeps the length is seen by the time."""
    discoverer = _discoverer(source, output, settle=2)
    for stamp in range(1, 5):
        (source / "a.jpg").write_bytes(b"same")
        os.utime(source / "a.jpg", (stamp, stamp))
        for _ in range(3):
            assert discoverer.look(10).found == 0
            clocks.wait(0.6)
    clocks.wait(2)
    assert discoverer.look(10).found == 1


def test_a_backlog_is_not_held_up(source: Path, output: Folder, clocks: _Clocks) -> None:
    """What was there before the first look and has not changed for a minute is taken in that look."""
    _put(source, "a.jpg", "b.jpg")
    clocks.differ(63)
    assert _discoverer(source, output, settle=2).look(10).found == 2


def test_a_copy_that_keeps_an_old_time_is_not_of_the_past(source: Path, output: Folder, clocks: _Clocks) -> None:
    """Nor is what only another clock has touched: either time may be the one that tells."""
    _put(source, "a.jpg", "b.jpg")
    os.utime(source / "a.jpg", (0, 0))
    assert _discoverer(source, output, settle=2).look(10).unsettled == 2
    clocks.differ(3600)
    os.utime(source / "a.jpg", (time.time(), time.time()))
    assert _discoverer(source, output, settle=2).look(10).unsettled == 1


def test_nothing_is_waited_for_where_files_are_renamed_into_place(source: Path, output: Folder) -> None:
    _put(source, "a.jpg")
    assert _discoverer(source, output, settle=0).look(10).found == 1


def test_a_replay_waits_no_longer_than_it_must(source: Path, output: Folder, clocks: _Clocks) -> None:
    """What the question whether there is work has seen counts as the first look."""
    _put(source, "a.jpg", "b.jpg")
    discoverer = _discoverer(source, output, settle=2)
    assert discoverer.has_new()
    clocks.wait(1.5)  # while Spark starts
    look = discoverer.catch_up(10)
    assert (look.found, look.unsettled) == (2, 0)
    assert clocks.waited == pytest.approx(2)


def test_a_replay_does_not_wait_for_ever(
    source: Path, output: Folder, clocks: _Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that never rests is left, and counted."""
    _put(source, "a.jpg")
    discoverer = _discoverer(source, output, settle=2)

    def grow() -> Iterator[StoredPicture]:
        with (source / "a.jpg").open("ab") as file:
            file.write(b"x")
        return list_pictures(str(source), print)

    monkeypatch.setattr(Input, "pictures", lambda *_: grow())
    look = discoverer.catch_up(10)
    assert (look.found, look.unsettled) == (0, 1)
    assert clocks.waited == pytest.approx(10, abs=0.5)


def test_what_is_remembered_of_unsettled_files_goes_with_them(source: Path, output: Folder, clocks: _Clocks) -> None:
    """Those that are in a manifest, were renamed or have changed: years of looks take no memory."""
    discoverer = _discoverer(source, output, settle=2)
    _put(source, "a.jpg", "b.jpg", "c.jpg")
    discoverer.look(10)
    assert len(discoverer._settling._first_seen) == 3
    (source / "a.jpg").rename(source / "d.jpg")
    _put(source, "b.jpg")
    discoverer.look(10)
    assert len(discoverer._settling._first_seen) == 3
    clocks.wait(2)
    assert discoverer.look(10).found == 3
    assert not discoverer._settling._first_seen
    assert not discoverer._settling._seen_now


def test_a_look_that_fails_halfway_does_not_begin_again(source: Path, output: Folder, clocks: _Clocks) -> None:
    """A share that is away for a moment costs no more waiting."""
    _put(source, "a.jpg")
    discoverer = _discoverer(source, output, settle=2)
    discoverer.look(10)
    source.rename(source.with_name("away"))
    with pytest.raises(InputError):
        discoverer.look(10)
    source.with_name("away").rename(source)
    clocks.wait(2)
    assert discoverer.look(10).found == 1


def test_a_long_interval_does_not_delay_what_has_settled(
    source: Path, output: Folder, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """The stream looks once more, as soon as a new file can have settled."""
    _put(source, "a.jpg")
    with DiscoveryThread(_discoverer(source, output, settle=0.05), 10, timedelta(hours=1)) as thread:
        wait_for(lambda: _logged(output) == ["a.jpg"])
    assert thread.failure is None


def test_without_the_right_to_write_nothing_is_appended(source: Path, output: Folder) -> None:
    """A process that lost its lease finds out before the manifest, not after."""
    _put(source, "a.jpg")

    def refuse() -> None:
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError):
        _discoverer(source, output, may_append=refuse).look(10)
    assert not _logged(output)


def test_the_following_thread_finds_arrivals_and_survives_an_input_that_goes_away(
    source: Path, output: Folder, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """An unmounted disk is retried; what was there before is not found again."""
    discoverer = _discoverer(source, output)
    with DiscoveryThread(discoverer, 10, timedelta(0)) as thread:
        _put(source, "a.jpg")
        wait_for(lambda: _logged(output) == ["a.jpg"])
        source.rename(source.with_name("away"))
        _put(source.with_name("away"), "b.jpg")
        source.with_name("away").rename(source)
        wait_for(lambda: _logged(output) == ["a.jpg", "b.jpg"])
    assert thread.failure is None


def test_a_defect_in_discovery_is_kept_for_the_main_thread(source: Path, output: Folder) -> None:
    """A thread that dies must not leave a stream that looks alive."""
    _put(source, "a.jpg")
    problem = RuntimeError("broken")

    def fail() -> None:
        raise problem

    with DiscoveryThread(_discoverer(source, output, may_append=fail), 10, timedelta(0)) as thread:
        thread._thread.join(10)
    assert thread.failure is problem


def _folded(output: Folder) -> list[str]:
    tables = [pq.read_table(output.path(name)) for name in output.names(known.KNOWN_FOLDER)]
    return sorted(path for table in tables for path in table.column("path").to_pylist())


def test_folding_keeps_what_is_known(source: Path, output: Folder) -> None:
    """Folded manifests leave the log and stay known, with their raw keys; small records are merged into one."""
    for number in range(3):
        _put(source, *(f"{number}{other}.jpg" for other in range(5)))
        _discoverer(source, output).look(2)
        ids = manifests.manifest_ids(output)
        known.fold(LooseTenure(output), ids)
        assert manifests.manifest_ids(output) == []
        assert all(known.is_folded(output, one) for one in ids)
    assert len(list(output.names(known.KNOWN_FOLDER))) == 1
    assert _folded(output) == [picture.path for picture in list_pictures(str(source), print)]
    assert not known.is_folded(output, "another")
    assert not _discoverer(source, output).has_new()


def test_folding_that_was_killed_loses_and_repeats_nothing(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each of its deletions in turn, and run again: every picture is known once."""
    _put(source, *(f"{number}.jpg" for number in range(4)))
    _discoverer(source, output).look(1)
    ids = manifests.manifest_ids(output)
    known.fold(LooseTenure(output), ids[:1])
    delete, calls = output.delete, [0]

    class Killed(BaseException):
        pass

    for survive in range(5):

        def delete_or_die(name: str, survive: int = survive) -> None:
            if calls[0] == survive:
                raise Killed
            calls[0] += 1
            delete(name)

        calls[0] = 0
        monkeypatch.setattr(output, "delete", delete_or_die)
        with suppress(Killed):
            known.fold(LooseTenure(output), manifests.manifest_ids(output))
        monkeypatch.undo()
        assert len(KnownPictures(output)) == 4
        assert not _discoverer(source, output).has_new()
    assert manifests.manifest_ids(output) == []
    assert set(_folded(output)) == {picture.path for picture in list_pictures(str(source), print)}


@pytest.mark.parametrize("compact_after", [1, 7, 1000])
def test_compact_memory_knows_the_same(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch, compact_after: int
) -> None:
    """Moving pictures into the compact array changes nothing but the memory that they take."""
    monkeypatch.setattr(known, "_COMPACT_AFTER", compact_after)
    _put(source, *(f"{number}.jpg" for number in range(50)))
    pictures = list(list_pictures(str(source), print))
    memory = KnownPictures(output)
    for start in range(0, 40, 5):
        memory.add(memory.unknown(pictures[start : start + 5]))
    assert memory.unknown(pictures) == pictures[40:]
    assert len(memory) == 40


def test_the_discovery_of_one_thread_stops_when_told(source: Path, output: Folder) -> None:
    """Leaving takes no longer than the look that is under way, whatever the interval."""
    leave = threading.Event()
    leave.set()
    _discoverer(source, output).follow(10, timedelta(days=1), leave)
