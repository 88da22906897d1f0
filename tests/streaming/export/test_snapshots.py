"""Snapshots: whoever is paused, cut off or killed at any write, and whatever the store delivers late, all agree."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from conf.errors import AlreadyExistsError, AppError, ConflictError, LeaseLostError, OutputError
from conf.loading import load_settings
from conf.spark.progress import bar
from streaming.export.answer import Exported
from streaming.export.plan import ExportPlaces, plan_export
from streaming.export.record import Snapshot, SnapshotDay, SnapshotFile, latest, read_snapshot, revise
from streaming.export.run import export
from streaming.export.snapshots import (
    begin,
    complete_snapshot,
    drop,
    drop_incomplete,
    snapshots,
    working_on,
)
from streaming.forget.exports import PLACE, correct_records, export_files, record_tags
from streaming.forget.files import File, Found
from streaming.lease.denylist import Denylist, Entry
from streaming.lease.lease import Lease
from streaming.output.manifests import prepare_log
from streaming.output.rows import count_rows, erase_in
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet
from tests.support.buckets import Bucket

DAYS = ("2026-01-30", "2026-01-31", "2026-02-01", "2026-02-02")
NOW = datetime(2026, 2, 3, tzinfo=UTC)
FIRST = "20260202T230000000000Z-00000000"
LONG = timedelta(minutes=5)


@dataclass(frozen=True)
class _Place:
    """An output of four days, and a folder with one snapshot of all of it, from which later ones take their files."""

    output: Folder
    to: Folder

    def export(self, day: int, keep: int = 9) -> Exported:
        """A snapshot from this day on."""
        options = {"export.since": DAYS[day], "export.keep": keep}
        return export(load_settings({"output": self.output.root, "export.to": self.to.root, **options}), bar)


def _paths(day: str) -> list[str]:
    return [f"/in/{day}/{number}.jpg" for number in range(3)]


def _made(output: Folder, to: Folder) -> _Place:
    prepare_log(output)
    for day in DAYS:
        output.create(f"features/date={day}/{day.replace('-', '')}T120000000000Z-00000000.parquet", day.encode())
    settings = load_settings({"output": output.root, "export.to": to.root})
    days = []
    for source in plan_export(ExportPlaces.of(settings), settings.export, None).write:
        data = as_parquet(pa.table({"path": _paths(str(source.date))}))
        file = SnapshotFile(name=f"date={source.date}/part.parquet", rows=3, bytes=len(data))
        to.create(f"{FIRST}/{file.name}", data)
        days.append(
            SnapshotDay(
                date=source.date,
                source=source.fingerprint,
                manifests=1,
                latest_manifest=source.latest_manifest,
                files=(file,),
            )
        )
    complete_snapshot(
        to,
        Snapshot(
            snapshot=FIRST,
            output=output.root,
            created_at=NOW,
            format="parquet",
            since=None,
            target_mb=128,
            days=tuple(days),
        ),
    )
    return _Place(output, to)


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> _Place:
    root = tmp_path_factory.mktemp("made")
    return _made(open_folder(str(root / "out")), open_folder(str(root / "to")))


class _KilledError(BaseException):
    """The program is gone; what it had sent is under way."""


@contextmanager
def _stalled(
    to: Folder, method: str, pattern: str, meanwhile: Callable[[], object], *, is_killed: bool
) -> Iterator[Callable[[], None]]:
    """Whoever comes to a call of a folder stops there, and somebody else works meanwhile.

    Afterwards it goes on with that call, or it has died, and the call arrives when what is yielded is called.
    """
    real = getattr(type(to), method)
    arriving: list[Callable[[], Any]] = []
    is_over = False

    def call(folder: Folder, name: str, *arguments: Any) -> Any:
        nonlocal is_over
        if is_over or folder.root != to.root or not fnmatch.fnmatch(name, pattern):
            return real(folder, name, *arguments)
        is_over = True
        to.delete("_lease")  # it ran out
        meanwhile()
        if is_killed:
            arriving.append(lambda: real(folder, name, *arguments))
            raise _KilledError
        return real(folder, name, *arguments)

    def arrive() -> None:
        assert is_over, "nobody came to this call"
        for send in arriving:
            with suppress(AppError):
                send()

    with pytest.MonkeyPatch.context() as context:
        context.setattr(type(to), method, call)
        yield arrive


def _forget_one(to: Folder) -> None:
    """What `forget` does in a folder of snapshots, without Spark."""
    path = _paths(DAYS[3])[1]
    denylist = Denylist([Entry.of([path], [], bytes(32), NOW)])
    with working_on(to, LONG) as lease:
        drop_incomplete(to, lease)
        files = export_files(to)
        for file in files:
            erase_in(to, file.name, denylist)
        tags = record_tags(to, [file.name for file in files])
        correct_records(to, _measured(to), tags)


def _measured(to: Folder) -> list[Found]:
    contents = {name: to.read(name) for one in snapshots(to) for name in one.files}
    return [Found(File(PLACE, to.root, name), count_rows(name, data), len(data)) for name, data in contents.items()]


def _check(to: Folder) -> None:
    """LATEST and all records say what is there."""
    present = latest(to)
    assert present is not None
    for one in snapshots(to):
        if one.complete:
            said = {f"{one.id}/{file.name}": (file.rows, file.bytes) for file in read_snapshot(to, one.id).files}
            assert said == {name: (count_rows(name, to.read(name)), len(to.read(name))) for name in one.files}
    record = to.read(present.record)
    assert present.record_sha256 == hashlib.sha256(record).hexdigest()
    assert (present.rows, present.files) == (
        sum(file.rows for file in Snapshot.model_validate_json(record).files),
        len(Snapshot.model_validate_json(record).files),
    )
    assert present.snapshot in [one.id for one in snapshots(to) if one.complete]


_WRITES = (
    ("create", "_snapshots/*.unfinished"),
    ("copy", f"{FIRST}/date={DAYS[3]}/*"),
    ("create", "_snapshots/*.json"),
    ("replace", "LATEST"),
    ("delete", "_snapshots/*.unfinished"),
)
_OTHERS: dict[str, Callable[[_Place], object]] = {
    "another export": lambda place: place.export(2, keep=1),
    "the same export": lambda place: place.export(1),
    "a forget": lambda place: _forget_one(place.to),
}


def _check_stalled(place: _Place, write: tuple[str, str], other: str, *, is_killed: bool) -> None:
    to, before = place.to, latest(place.to)
    made, error = None, None
    with _stalled(to, *write, lambda: _OTHERS[other](place), is_killed=is_killed) as arrive:
        try:
            made = place.export(1).snapshot
        except _KilledError:
            pass
        except AppError as raised:
            error = raised
        arrive()
    _check(to)
    present = latest(to)
    assert present
    if other != "a forget":  # it made a snapshot, which nobody may put back
        assert before
        assert present.snapshot > before.snapshot
    if made:
        assert present.snapshot >= made.snapshot
        assert present.snapshot > made.snapshot or read_snapshot(to, made.snapshot).since == made.since
    elif not is_killed:
        assert isinstance(error, OutputError), error
        assert error.exit_code == 5
    place.export(3)
    _check(to)
    assert all(one.complete for one in snapshots(to))
    newest = latest(to)
    assert newest
    assert newest.snapshot == max(one.id for one in snapshots(to))
    unfinished = {name.removesuffix(".unfinished") for name in to.names("_snapshots") if name.endswith("unfinished")}
    assert not unfinished & {f"_snapshots/{one.id}" for one in snapshots(to)}


@pytest.mark.parametrize("is_killed", [False, True], ids=["wakes up", "is killed"])
@pytest.mark.parametrize("other", _OTHERS)
@pytest.mark.parametrize("write", _WRITES, ids=[" ".join(write) for write in _WRITES])
def test_an_export_that_stalls_at_any_write_publishes_whole_or_nothing(
    made: _Place, write: tuple[str, str], other: str, *, is_killed: bool
) -> None:
    """Another program takes over meanwhile, and then the write arrives, from a program that lives or not."""
    _check_stalled(made, write, other, is_killed=is_killed)


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_the_same_in_a_bucket(bucket: Bucket) -> None:
    """At the writes that decide."""
    for name, write in (("record", _WRITES[2]), ("LATEST", _WRITES[3])):
        output, to = (open_folder(bucket.uri(f"{name}/{place}")) for place in ("out", "to"))
        _check_stalled(_made(output, to), write, "another export", is_killed=name == "record")


def test_an_export_whose_lease_is_lost_says_so_and_leaves_nothing(
    made: _Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether another has taken over yet or not."""
    held: list[Lease] = []
    real = Lease.__enter__

    def enter(lease: Lease) -> Lease:
        held.append(lease)
        return real(lease)

    def lose() -> None:
        held[0]._lost = "another stream took it"

    monkeypatch.setattr(Lease, "__enter__", enter)
    with (
        _stalled(made.to, "copy", f"{FIRST}/date={DAYS[2]}/*", lose, is_killed=False),
        pytest.raises(LeaseLostError, match="nothing of it was published; export again"),
    ):
        made.export(1)
    assert [name for name in made.to.names("") if not name.startswith((FIRST, "_"))] == ["LATEST"]
    _check(made.to)


def test_what_was_given_up_is_told_until_nothing_can_come_any_more(made: _Place) -> None:
    """For a day, and until LATEST names a later snapshot."""
    to = made.to

    def names() -> set[str]:
        return {name.rpartition(".")[2] for name in to.names("_snapshots") if FIRST not in name}

    with working_on(to, LONG) as lease:
        given_up = begin(to, NOW, "", lease)
        to.create(f"{given_up}/date={DAYS[0]}/part.parquet", b"PAR1")
        drop_incomplete(to, lease)
        assert names() == {"json", "unfinished"}
        assert [one.id for one in snapshots(to)] == [FIRST]
        name = f"_snapshots/{given_up}.json"
        record, tag = to.read_tagged(name)
        to.replace(name, record.replace(f"{datetime.now(UTC):%Y}".encode(), b"2020"), tag)
        drop_incomplete(to, lease)
        assert names() == {"json", "unfinished"}
        to.create(f"{given_up}/date={DAYS[0]}/late.parquet", b"PAR1")  # by a worker
        assert [one.complete for one in snapshots(to)] == [True, False]
    later = made.export(2).snapshot.snapshot
    assert later > given_up
    assert [one.id for one in snapshots(to)] == [FIRST, later]
    made.export(3)
    assert not any(given_up in name for name in to.names(""))


def test_a_snapshot_is_deleted_although_a_late_worker_writes_there(
    made: _Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a program that was killed; its driver is gone before its workers are."""
    late = [Path(made.to.path(f"{FIRST}/date={DAYS[0]}/late.parquet"))]
    real = os.rmdir

    def write_first(*arguments: Any, **options: Any) -> None:
        while late:
            late.pop().touch()
        real(*arguments, **options)

    monkeypatch.setattr(os, "rmdir", write_first)
    made.to.delete_tree(FIRST)
    assert not Path(made.to.path(FIRST)).exists()


def test_a_later_snapshot_has_a_later_id_although_a_clock_was_set_back(made: _Place) -> None:
    with working_on(made.to, LONG) as lease:
        first = begin(made.to, NOW, "a", lease)
        assert first.startswith("20260203T000000000000Z-")
        assert begin(made.to, NOW - timedelta(days=300), "b", lease).startswith("20260203T000000000001Z-")


def test_a_record_that_is_delivered_twice_does_not_bring_a_deleted_snapshot_back(made: _Place) -> None:
    """The store had kept one of two attempts at the same request."""
    made.export(1)
    record = made.to.read(f"_snapshots/{FIRST}.json")
    drop(made.to, FIRST)
    drop(made.to, FIRST)
    with pytest.raises(LeaseLostError):
        complete_snapshot(made.to, Snapshot.model_validate_json(record))
    assert FIRST not in [one.id for one in snapshots(made.to)]
    with pytest.raises(OutputError, match="is not complete: another export or forget gave it up"):
        read_snapshot(made.to, FIRST)
    _check(made.to)


def test_a_record_whose_answer_was_lost_counts_although_a_forget_has_revised_it(made: _Place) -> None:
    """An export that was paused right after the write that decided it is asked for it once more by its client."""
    to = made.to
    real = type(to).create

    def answered_late(folder: Folder, name: str, data: bytes) -> str:
        tag = real(folder, name, data)
        if folder.root == to.root and fnmatch.fnmatch(name, "_snapshots/*.json"):
            to.delete("_lease")  # it ran out
            with pytest.MonkeyPatch.context() as others:
                others.setattr(type(to), "create", real)
                _forget_one(to)
            raise AlreadyExistsError(name)
        return tag

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(to), "create", answered_late)
        made.export(1)
    _check(to)
    present = latest(to)
    assert present
    assert present.snapshot > FIRST


def test_an_older_look_at_files_does_not_replace_the_record_of_a_newer_one(made: _Place) -> None:
    """Of two that forget, the first was paused after it had measured."""
    tags, measured = record_tags(made.to, [f"{FIRST}/x"]), _measured(made.to)
    _forget_one(made.to)
    with pytest.raises(ConflictError):
        correct_records(made.to, measured, tags)
    _check(made.to)


def test_a_record_that_was_revised_is_in_latest_although_a_run_was_killed_in_between(made: _Place) -> None:
    to = made.to
    with suppress(_KilledError), _stalled(to, "replace", "LATEST", lambda: None, is_killed=True):
        _forget_one(to)
    tags = record_tags(to, [f"{FIRST}/x"])
    revise(to, read_snapshot(to, FIRST), tags[FIRST])
    _check(to)
