"""Discovery, the manifest log and the memory of what was seen; no Spark needed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from streaming import known, manifests
from streaming.discovery import DiscoveryThread, ListingDiscoverer
from streaming.features.storage import list_pictures
from streaming.features.stored import Folder, StoredPicture
from streaming.known import KnownPictures
from streaming.manifest_writer import ManifestWriter

NOW = datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)


def _put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def _discoverer(
    source: Path, output: Folder, settle: float = 0, may_append: Callable[[], None] = lambda: None
) -> ListingDiscoverer:
    return ListingDiscoverer(
        str(source),
        partial(list_pictures, str(source)),
        ManifestWriter(output, KnownPictures(output), may_append),
        timedelta(seconds=settle),
    )


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


def test_an_overwritten_picture_is_not_read_again(source: Path, output: Folder) -> None:
    """A picture is its key."""
    _put(source, "a.jpg")
    discoverer = _discoverer(source, output)
    discoverer.look(10)
    (source / "a.jpg").write_bytes(b"something else")
    assert discoverer.look(10).found == 0


def test_a_file_that_is_still_being_written_is_left_for_a_later_look(source: Path, output: Folder) -> None:
    """Age counts from the last change of the file, whatever its modification time says."""
    _put(source, "old.jpg", "copied.jpg")
    os.utime(source / "copied.jpg", (0, 0))
    discoverer = _discoverer(source, output, settle=3600)
    look = discoverer.look(10)
    assert (look.listed, look.found, look.unsettled) == (2, 0, 2)
    assert not _logged(output)
    assert _discoverer(source, output, settle=0.05).look_until_settled(10).found == 2


def test_a_file_from_the_future_is_not_waited_for(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the clock was set back, files of the old future are taken at once."""
    _put(source, "a.jpg")
    now = time.time()
    monkeypatch.setattr("streaming.discovery.time.time", lambda: now - 3600)
    assert _discoverer(source, output, settle=2).look(10).found == 1


def test_what_cannot_be_read_is_reported_once(source: Path, output: Folder, caplog: pytest.LogCaptureFixture) -> None:
    """A stream of years does not repeat the same line at each look."""
    (source / "loop").symlink_to(source)
    discoverer = _discoverer(source, output)
    discoverer.look(10)
    discoverer.look(10)
    assert [record.getMessage() for record in caplog.records] == [
        f"left out: {str(source / 'loop')!r} is a link to a folder, and these are not followed"
    ]


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
    """An unmounted disk is waited for; what was there before is not found again."""
    discoverer = _discoverer(source, output)
    thread = DiscoveryThread(discoverer, 10, timedelta(0))
    _put(source, "a.jpg")
    wait_for(lambda: _logged(output) == ["a.jpg"])
    source.rename(source.with_name("away"))
    _put(source.with_name("away"), "b.jpg")
    source.with_name("away").rename(source)
    wait_for(lambda: _logged(output) == ["a.jpg", "b.jpg"])
    thread.stop()
    assert thread.failure is None


def test_a_defect_in_discovery_is_kept_for_the_main_thread(source: Path, output: Folder) -> None:
    """A thread that dies must not leave a stream that looks alive."""
    _put(source, "a.jpg")
    problem = RuntimeError("broken")

    def fail() -> None:
        raise problem

    thread = DiscoveryThread(_discoverer(source, output, may_append=fail), 10, timedelta(0))
    thread._thread.join(10)
    assert thread.failure is problem


def _folded(output: Folder) -> list[str]:
    tables = [pq.read_table(output.path(name)) for name in output.names(known.FOLDER)]
    return sorted(path for table in tables for path in table.column("path").to_pylist())


def test_folding_keeps_what_is_known(source: Path, output: Folder) -> None:
    """Folded manifests leave the log and stay known, with their raw keys; small records are merged into one."""
    for number in range(3):
        _put(source, *(f"{number}{other}.jpg" for other in range(5)))
        _discoverer(source, output).look(2)
        ids = manifests.manifest_ids(output)
        known.fold(output, ids)
        assert manifests.manifest_ids(output) == []
        assert all(known.is_folded(output, one) for one in ids)
    assert len(list(output.names(known.FOLDER))) == 1
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
    known.fold(output, ids[:1])
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
            known.fold(output, manifests.manifest_ids(output))
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
