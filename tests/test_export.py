"""Export: a snapshot is what was committed, no more and no less, and LATEST names only whole ones."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from conf.errors import LeaseHeldError, OutputError
from conf.loading import load_settings
from conf.settings import ExportSettings
from streaming.__main__ import main as stream
from streaming.batch_report import BatchReport
from streaming.compaction import Compacted, _rows_of
from streaming.derivatives import Derivative, derivatives
from streaming.export import check_written
from streaming.export_plan import Places, Plan, make_plan
from streaming.features.parquet import as_parquet
from streaming.features.schema import FEATURES, OUTCOMES
from streaming.features.storage import open_folder
from streaming.features.stored import Folder
from streaming.sink import ParquetSink, Result
from streaming.snapshot_record import Snapshot, SnapshotDay, SnapshotFile
from streaming.snapshots import (
    drop,
    drop_older,
    latest,
    new_id,
    promote,
    read_snapshot,
    snapshots,
    working_on,
)
from tests.buckets import Bucket
from tests.servers import versitygw
from tests.streams import begin, run, start

DAY = datetime(2026, 1, 30, 12, tzinfo=UTC)
LONG = timedelta(minutes=1)


def _commit(output: Folder, day: int, paths: Sequence[str], model: str = "one", k: int = 4) -> str:
    """What the stream does with a manifest of these pictures, written so many days after the first; its id."""
    at = DAY + timedelta(days=day)
    random = np.random.default_rng(len(paths))
    count = len(paths)
    outcomes = {
        "path": paths,
        "length": range(count),
        "modification_time": [at] * count,
        "width": [1] * count,
        "height": [2] * count,
        "features": [random.normal(size=k).astype(np.float32) for _ in paths],
        "reconstruction_error": [0.5] * count,
    }
    nothing = [None] * count
    table = pa.table({name: outcomes.get(name, nothing) for name in OUTCOMES.names}, schema=OUTCOMES)
    manifest = f"{at:%Y%m%dT%H%M%S%fZ}-{hashlib.sha256(repr(paths).encode()).hexdigest()[:8]}"
    report = BatchReport(manifest, count, Counter(), 0, 0, model, None)
    assert ParquetSink(output).commit(manifest, Result(table, at, report))
    return manifest


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    """A table of three days, the last with two models of different k, a manifest without rows, and the first file."""
    folder = open_folder(str(tmp_path / "out 100%25 [é]"))
    begin(folder)
    _fill(folder)
    return folder


def _fill(folder: Folder) -> None:
    _commit(folder, 0, ["/p/b.jpg", "/p/100%25/é ü,\"'.jpg"])
    _commit(folder, 0, ["/p/a.jpg", "/p/_c.jpg"])
    _commit(folder, 1, ["/q/1.jpg"])
    _commit(folder, 2, ["/q/3.jpg", "/q/2.jpg"])
    _commit(folder, 2, ["/q/0.jpg"], model="two", k=6)
    _commit(folder, 2, [])


@pytest.fixture
def to(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "exports [*] %2F"))


def _arguments(output: Folder, to: Folder, *more: str) -> list[str]:
    return ["export", "--output", output.root, "--to", to.root, "--master", "local[2,4]", *more]


class _Asked:
    """Export in this process; returns what it said."""

    def __init__(self, output: Folder, to: Folder, capsys: pytest.CaptureFixture[str]) -> None:
        self._places = (output, to)
        self._capsys = capsys

    def __call__(self, *more: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert stream(_arguments(*self._places, *more)) == code
        said = self._capsys.readouterr()
        return said.err if code else said.out


@pytest.fixture
def ask(output: Folder, to: Folder, capsys: pytest.CaptureFixture[str]) -> _Asked:
    return _Asked(output, to, capsys)


def _table(folder: str | Path) -> pa.Table:
    return ds.dataset(folder, format="parquet", partitioning="hive").to_table()


def _named(to: Folder) -> Path:
    """The folder that LATEST names."""
    present = latest(to)
    assert present
    return Path(to.path(present.snapshot))


_KILLS = (
    # step, whether the snapshot is complete then, whether LATEST names it
    ("before copy */* 1", True, False),  # of the one before
    ("after copy */* 2", False, False),
    ("before create _snapshots/* 1", False, False),
    ("after create _snapshots/* 1", True, False),
    ("before replace LATEST 1", True, False),
    ("after replace LATEST 1", True, True),
)


def _inodes(snapshot: Path, day: int) -> set[int]:
    folder = snapshot / f"date={DAY + timedelta(days=day):%Y-%m-%d}"
    return {file.stat().st_ino for file in folder.iterdir()}


def test_a_snapshot_is_the_table_and_the_next_one_writes_only_what_changed(
    output: Folder, to: Folder, ask: _Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row once, sorted by date and path, whatever its names; a day without new rows is not even read again."""
    expected = _table(output.path("features")).sort_by([("date", "ascending"), ("path", "ascending")])
    planned = ask("--dry-run")
    assert "would write  3 days: 6 files" in planned
    assert not Path(to.root).exists()
    assert "rows         8 of 6 manifests" in ask()
    first = _named(to)
    assert _table(first).select(expected.column_names).equals(expected)
    assert pd.read_parquet(first)["path"].tolist() == expected.column("path").to_pylist()
    files = [file for file in first.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".parquet"}
    assert len(files) == 3
    assert all(pq.read_schema(file).equals(FEATURES) for file in files)
    assert derivatives(output) == [Derivative("export", to.root)]

    assert "nothing new" in ask()
    assert "nothing new" in ask("--dry-run")
    assert _named(to) == first

    # Were the first two days read again, they would fail.
    for name in list(output.names("features"))[:3]:
        file = Path(output.path(name))
        status = file.stat()
        file.write_bytes(bytes(status.st_size))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    manifest = _commit(output, 2, ["/q/05.jpg"])
    real = make_plan

    def plan_and_go_on(places: Places, options: ExportSettings) -> Plan:
        """The stream commits another manifest while the export works."""
        made = real(places, options)
        _commit(output, 2, ["/q/late.jpg"])
        return made

    monkeypatch.setattr("streaming.export.make_plan", plan_and_go_on)
    said = ask()
    monkeypatch.undo()
    assert "rows         9 of 7 manifests" in said
    assert f"files        3, 2 of them taken over from {first.name}" in said
    second = _named(to)
    assert [_inodes(first, day) == _inodes(second, day) for day in range(3)] == [True, True, False]
    assert _table(second).column("path").to_pylist()[-4:] == ["/q/0.jpg", "/q/05.jpg", "/q/2.jpg", "/q/3.jpg"]
    present = latest(to)
    assert present
    assert (present.previous, present.rows, present.manifests) == (first.name, 9, 7)
    assert present.latest_manifest >= manifest
    record = to.read(present.record)
    assert hashlib.sha256(record).hexdigest() == present.record_sha256
    assert len(_table(first)) == 8

    shutil.rmtree(second / "date=2026-02-01")  # by a hand
    assert "rows         10 of 8 manifests" in ask()
    assert "/q/late.jpg" in _table(_named(to)).column("path").to_pylist()
    assert ask("--since", "2026-02-01", "--target-mb", "64").count("rows         5 of 5 manifests") == 1
    assert ask("--since", "2027-01-01", code=5).startswith("error: ")


def test_a_snapshot_of_csv_has_a_folder_for_each_model(output: Folder, to: Folder, ask: _Asked) -> None:
    """With a column for each of its features, to the last bit; pandas reads it without being told anything."""
    ask("--format", "csv")
    rows = _table(output.path("features")).to_pandas().set_index("path")
    read = []
    for model, k in (("one", 4), ("two", 6)):
        frame = pd.concat(map(pd.read_csv, sorted((_named(to) / model).glob("*.csv.gz")))).set_index("path")
        assert frame.index.is_unique
        for path, values in frame.iterrows():
            assert values[[f"f{number}" for number in range(k)]].astype(np.float32).tolist() == list(
                rows.loc[path, "features"]
            )
            assert values["date"] == rows.loc[path, "date"]
        assert (frame["model_version"] == model).all()
        read += frame.index.tolist()
    assert sorted(read) == sorted(rows.index)


def test_large_days_are_cut_into_files_of_the_target_size(output: Folder, to: Folder, ask: _Asked) -> None:
    """Each begins where the one before ends; none is larger, and few are much smaller. Smaller days are not cut."""
    for day in range(3, 9):
        _commit(output, day, [f"/r/{day}/{number}.jpg" for number in range(1000)], k=100)
    for number in range(4):
        _commit(output, 0, [f"/p/{(number + 4 * i) * 7919 % 10_000:05}.jpg" for i in range(2500)], k=100)
    ask("--target-mb", "1")
    counts = [len(list(day.iterdir())) for day in sorted(_named(to).iterdir())]
    assert counts[1:] == [1] * 8
    files = sorted((_named(to) / "date=2026-01-30").iterdir())
    paths = [pq.read_table(file, columns=["path"], partitioning=None).column(0).to_pylist() for file in files]
    joined = [path for one in paths for path in one]
    assert len(joined) == 10_004
    assert joined == sorted(set(joined))
    assert max(file.stat().st_size for file in files) <= 1.2 * 2**20
    assert sum(file.stat().st_size for file in files) / len(files) > 0.5 * 2**20


def test_a_killed_export_is_finished_or_superseded(output: Folder, to: Folder, ask: _Asked) -> None:
    """Kill -9 before and after each step; LATEST always names a whole snapshot, and the next run leaves no rest."""
    for day in range(3, 10):
        _commit(output, day, [f"/r/{day}.jpg"])
    ask()
    left = 15
    for first, (kill, is_complete, is_latest) in enumerate(_KILLS, start=3):
        # A snapshot of fewer days is all taken over, so that no Spark has to start.
        arguments = _arguments(output, to, "--since", f"{DAY + timedelta(days=first):%Y-%m-%d}")
        former = _named(to)
        killed = run("tests.killing", [*kill.split(), "streaming", *arguments])
        assert killed.returncode == -signal.SIGKILL, killed.stdout
        assert (snapshots(to)[-1].complete, _named(to) != former) == (is_complete, is_latest), kill
        assert len(_table(_named(to))) == left if not is_latest else 10 - first
        assert stream(arguments) == 0
        left = 10 - first
        assert len(_table(_named(to))) == left
        assert all(one.complete for one in snapshots(to))
        assert not (Path(to.root) / "_tmp").exists() or not [*to.names("_tmp")][1:]


def test_an_export_that_is_killed_while_it_writes_leaves_nothing_that_counts(
    output: Folder, to: Folder, ask: _Asked, wait_for: Callable[..., None]
) -> None:
    """Nor does the next one read it."""
    for day in range(3, 40):
        _commit(output, day, [f"/r/{day}/{number}.jpg" for number in range(100)])
    process = start("streaming", _arguments(output, to))
    wait_for(lambda: any(not one.complete and one.files for one in snapshots(to)) or process.poll() is not None)
    process.kill()
    process.communicate()
    assert latest(to) is None
    [half] = snapshots(to)
    assert not half.complete
    assert "rows         3,708 of" in ask()
    assert len(_table(_named(to))) == 3708
    assert [one.id for one in snapshots(to)] == [_named(to).name]


def test_wrong_places_are_answered_in_one_line(output: Folder, to: Folder, ask: _Asked, tmp_path: Path) -> None:
    """Without Spark."""
    inside = open_folder(output.path("exports"))
    assert stream(_arguments(output, inside)) == 2
    assert stream(_arguments(open_folder(str(tmp_path / "nothing")), to)) == 5
    assert stream(["export", "--output", output.root]) == 2
    with working_on(to, LONG), pytest.raises(LeaseHeldError, match="another export or forget works here: process"):
        working_on(to, LONG).__enter__()
    assert "another export or forget" not in ask("--dry-run")


def test_what_is_not_what_was_read_is_not_published(output: Folder, to: Folder) -> None:
    """Rows are compared day by day, files by name and size."""
    places = Places.of(load_settings({"output": output.root, "export.to": to.root}))
    file = SnapshotFile(name="date=2026-01-30/part-00000-000.parquet", rows=4, bytes=3)
    day = SnapshotDay(date=DAY.date(), source="", manifests=2, latest_manifest="", files=(file,))
    snapshot = new_id(DAY, "")
    made = Snapshot(
        snapshot=snapshot, output="", created_at=DAY, format="parquet", since=None, target_mb=1, days=(day,)
    )
    to.create(f"{snapshot}/{file.name}", b"PAR")
    check_written(places, made, Compacted({day.date: 4}, {day.date: [file]}))
    for rows in ({day.date: 5}, {day.date: 4, date(2026, 1, 31): 1}):
        with pytest.raises(OutputError, match="is not what was read"):
            check_written(places, made, Compacted(rows, {day.date: [file]}))
    to.create(f"{snapshot}/date=2026-01-30/part-stray.parquet", b"PAR")
    with pytest.raises(OutputError, match="nothing was published"):
        check_written(places, made, Compacted({day.date: 4}, {day.date: [file]}))


@pytest.mark.parametrize(
    "data", [b"PAR1", as_parquet(pa.table({"path": ["a"]}))], ids=["truncated", "of another table"]
)
def test_a_damaged_file_is_named(data: bytes) -> None:
    """Of thousands that are read by workers."""
    with pytest.raises(OutputError, match=r"/a\.parquet cannot be read: .* restore or delete it, and export again"):
        _rows_of("/a.parquet", data)


def test_a_snapshot_can_be_dropped_unless_it_is_the_latest(
    output: Folder, to: Folder, ask: _Asked, tmp_path: Path
) -> None:
    """What was taken over from it stays. Snapshots of two outputs are not mixed."""
    ask()
    shutil.copytree(output.root, tmp_path / "other")
    assert stream(_arguments(open_folder(str(tmp_path / "other")), to)) == 2
    first = _named(to)
    _commit(output, 3, ["/new.jpg"])
    ask()
    second = _named(to)
    with pytest.raises(OutputError, match="is what LATEST names"):
        drop(to, second.name)
    drop(to, first.name)
    drop(to, first.name)
    assert [one.id for one in snapshots(to)] == [second.name]
    assert not first.exists()
    assert len(_table(second)) == 9
    assert "nothing new" in ask()
    ask("--since", "2026-01-31", "--keep", "1")
    assert [one.id for one in snapshots(to)] == [_named(to).name]


def test_older_snapshots_go_but_never_the_latest(to: Folder, ask: _Asked) -> None:
    """Although nothing is new; and although a clock was set back, so that others seem to be younger."""
    for since in ("2026-01-30", "2026-01-31", "2026-02-01"):
        ask("--since", since)
    _, second, third = (one.id for one in snapshots(to))
    assert "nothing new" in ask("--since", "2026-02-01", "--keep", "2")
    assert [one.id for one in snapshots(to)] == [second, third]
    promote(to, read_snapshot(to, second))
    drop_older(to, 1)
    assert [one.id for one in snapshots(to)] == [second, third]


@pytest.mark.parametrize("store", [versitygw], ids=["versitygw"], indirect=True)
def test_export_on_s3(bucket: Bucket, tmp_path: Path, output: Folder) -> None:
    """From and to a bucket; unchanged days are copied by the store; and from a bucket to a local folder."""
    bucket.put_tree(Path(output.root), "output 100%25")
    arguments = ["export", "--output", bucket.uri("output 100%25"), "--master", "local[2,4]", "--to"]
    to = open_folder(bucket.uri("exports é"))
    done = run("streaming", [*arguments, to.root])
    assert done.returncode == 0, done.stdout
    assert "rows         8 of 6 manifests" in done.stdout
    [first] = snapshots(to)
    done = run("streaming", [*arguments, to.root, "--since", "2026-01-31"])
    assert done.returncode == 0, done.stdout
    assert f"files        2, 2 of them taken over from {first.id}" in done.stdout
    present = latest(to)
    assert present
    expected = _table(output.path("features")).to_pandas()
    for snapshot, rows in ((first.id, expected), (present.snapshot, expected[expected["date"] != "2026-01-30"])):
        tables = [pq.read_table(pa.BufferReader(to.read(name))) for name in to.names(snapshot)]
        paths = [path for table in tables for path in table["path"].to_pylist()]
        assert paths == rows.sort_values(["date", "path"])["path"].tolist()
    here = open_folder(str(tmp_path / "here"))
    done = run("streaming", [*arguments, here.root, "--format", "csv"])
    assert done.returncode == 0, done.stdout
    [header, row] = gzip.decompress(next(_named(here).glob("two/*")).read_bytes()).decode().splitlines()
    assert header.endswith('"f5"')
    assert row.startswith('"/q/0.jpg"')
