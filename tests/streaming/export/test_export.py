"""Export: a snapshot is what was committed, no more and no less, and LATEST names only whole ones."""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import LeaseHeldError, OutputError, TransientError
from conf.loading import load_settings
from conf.settings import ExportSettings
from streaming.__main__ import main as stream
from streaming.export import compaction
from streaming.export.compaction import Compacted
from streaming.export.plan import ExportPlaces, ExportPlan, plan_export
from streaming.export.record import Snapshot, SnapshotDay, SnapshotFile, latest, promote
from streaming.export.reprojection import SnapshotModel
from streaming.export.rows import Counts, _rows_of
from streaming.export.run import check_written
from streaming.export.snapshots import drop, drop_older, snapshots, working_on
from streaming.features.schema import FEATURES
from streaming.output.lineage import Derivative, derivatives
from streaming.storage import local
from streaming.storage.folder import Folder
from streaming.storage.local_folder import LocalFolder
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet
from tests.support.buckets import Bucket
from tests.support.exports import Asked, Both, export_arguments, files, named, table
from tests.support.small_table import DAY, LONG, commit, fill
from tests.support.streams import PROJECT, begin, run


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    """A table of three days, the last with two models of different k, a manifest without rows, and the first file."""
    folder = open_folder(str(tmp_path / "out 100%25 [é]"))
    begin(folder)
    fill(folder)
    return folder


@pytest.fixture
def to(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "exports [*] %2F"))


@pytest.fixture
def by_spark(jvm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark works, however little there is to do."""
    monkeypatch.setattr(compaction, "FILES_HERE", 0)


@pytest.fixture
def ask(output: Folder, to: Folder, capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(output, to, capsys)


_KILLS = (
    # step, whether the snapshot is complete then, whether LATEST names it
    ("before copy */* 1", False, False),
    ("after copy */* 2", False, False),
    ("before create _snapshots/*.json 1", False, False),
    ("after create _snapshots/*.json 1", True, False),
    ("before replace LATEST 1", True, False),
    ("after replace LATEST 1", True, True),
)


def _inodes(snapshot: Path, day: int) -> set[int]:
    folder = snapshot / f"date={DAY + timedelta(days=day):%Y-%m-%d}"
    return {file.stat().st_ino for file in folder.iterdir()}


def test_programs_get_the_figures_of_an_export_and_of_its_plan(output: Folder, to: Folder, ask: Asked) -> None:
    """The keys are those of docs/formats.md; nothing new is the same answer, with the snapshot that is there."""
    plan = json.loads(ask("--dry-run", "--json"))
    assert (plan["to"], plan["write_days"], plan["write_files"], plan["keep_days"]) == (to.root, 3, 6, 0)
    made = json.loads(ask("--json"))
    assert (made["output"], made["to"], made["snapshot"]) == (output.root, to.root, named(to).name)
    assert (made["new"], made["rows"], made["manifests"], made["files"], made["model"]) == (True, 8, 6, 3, None)
    page = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    [row] = [line for line in page.splitlines() if line.startswith("| `export` |")]
    assert re.findall(r"`(\w+)`", row)[1:] == [*made]
    for words in (("--json",), ("--json", "--dry-run")):
        again = json.loads(ask(*words))
        assert {**again, "new": True, "seconds": 0, "taken_over": 0} == {**made, "seconds": 0}
        assert not again["new"]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_what_an_export_says_to_type_next_reads_it(form: str, ask: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    said = ask("--format", form, "--log-format", "text").splitlines()[-1]
    label, python, flag, code = shlex.split(said)
    assert (label, python, flag) == ("next", "python", "-c")
    exec(code)
    assert "/p/a.jpg" in capsys.readouterr().out


def test_a_snapshot_is_the_table_and_the_next_one_writes_only_what_changed(
    output: Folder, to: Folder, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row once, sorted by date and path, whatever its names; a day without new rows is not even read again."""
    expected = table(output.path("features")).sort_by([("date", "ascending"), ("path", "ascending")])
    planned = ask("--dry-run")
    assert "would write  3 days: 6 files" in planned
    assert not Path(to.root).exists()
    assert "rows         8 of 6 manifests" in ask()
    first = named(to)
    assert table(first).select(expected.column_names).equals(expected)
    assert pd.read_parquet(first)["path"].tolist() == expected.column("path").to_pylist()
    files = [file for file in first.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".parquet"}
    assert len(files) == 3
    assert all(pq.read_schema(file).equals(FEATURES) for file in files)
    assert derivatives(output) == [Derivative("export", to.root)]

    assert "nothing new" in ask()
    assert "nothing new" in ask("--dry-run")
    assert named(to) == first

    # Were the first two days read again, they would fail.
    for name in list(output.names("features"))[:3]:
        file = Path(output.path(name))
        status = file.stat()
        file.write_bytes(bytes(status.st_size))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    manifest = commit(output, 2, ["/q/05.jpg"])
    real = plan_export

    def plan_and_go_on(places: ExportPlaces, options: ExportSettings, model: SnapshotModel | None) -> ExportPlan:
        """The stream commits another manifest while the export works."""
        made = real(places, options, model)
        commit(output, 2, ["/q/late.jpg"])
        return made

    monkeypatch.setattr("streaming.export.run.plan_export", plan_and_go_on)
    said = ask()
    monkeypatch.undo()
    assert "rows         9 of 7 manifests" in said
    assert f"files        3, 2 of them taken over from {first.name}" in said
    second = named(to)
    assert [_inodes(first, day) == _inodes(second, day) for day in range(3)] == [True, True, False]
    assert table(second).column("path").to_pylist()[-4:] == ["/q/0.jpg", "/q/05.jpg", "/q/2.jpg", "/q/3.jpg"]
    present = latest(to)
    assert present
    assert (present.previous, present.rows, present.manifests) == (first.name, 9, 7)
    assert present.latest_manifest >= manifest
    record = to.read(present.record)
    assert hashlib.sha256(record).hexdigest() == present.record_sha256
    assert len(table(first)) == 8

    shutil.rmtree(second / "date=2026-02-01")  # by hand
    assert "rows         10 of 8 manifests" in ask()
    assert "/q/late.jpg" in table(named(to)).column("path").to_pylist()
    assert ask("--since", "2026-02-01", "--target-mb", "64").count("rows         5 of 5 manifests") == 1
    assert ask("--since", "2027-01-01", "--log-format", "text", code=5).startswith("error: ")


def test_a_snapshot_of_csv_has_a_folder_for_each_model(output: Folder, to: Folder, ask: Asked) -> None:
    """With a column for each of its features, to the last bit; pandas reads it without being told anything."""
    ask("--format", "csv")
    rows = table(output.path("features")).to_pandas().set_index("path")
    read = []
    for model, k in (("one", 4), ("two", 6)):
        frame = pd.concat(map(pd.read_csv, sorted((named(to) / model).glob("*.csv.gz")))).set_index("path")
        assert frame.index.is_unique
        for path, values in frame.iterrows():
            assert values[[f"f{number}" for number in range(k)]].astype(np.float32).tolist() == list(
                rows.loc[path, "features"]
            )
            assert values["date"] == rows.loc[path, "date"]
        assert (frame["model_version"] == model).all()
        read += frame.index.tolist()
    assert sorted(read) == sorted(rows.index)


def test_large_days_are_cut_into_files_of_the_target_size(output: Folder, to: Folder, ask: Asked) -> None:
    """Each begins where the one before ends; none is larger, and few are much smaller. Smaller days are not cut."""
    _check_cut(output, to, ask)


@pytest.mark.usefixtures("by_spark")
def test_spark_cuts_large_days_so_too(output: Folder, to: Folder, ask: Asked) -> None:
    """Although it divides the rows among its workers before it knows how large they become."""
    _check_cut(output, to, ask)


def _check_cut(output: Folder, to: Folder, ask: Asked) -> None:
    for day in range(3, 9):
        commit(output, day, [f"/r/{day}/{number}.jpg" for number in range(1000)], k=100)
    for number in range(4):
        commit(output, 0, [f"/p/{(number + 4 * i) * 7919 % 10_000:05}.jpg" for i in range(2500)], k=100)
    ask("--target-mb", "1")
    counts = [len(list(day.iterdir())) for day in sorted(named(to).iterdir())]
    assert counts[1:] == [1] * 8
    files = sorted((named(to) / "date=2026-01-30").iterdir())
    paths = [pq.read_table(file, columns=["path"], partitioning=None).column(0).to_pylist() for file in files]
    joined = [path for one in paths for path in one]
    assert len(joined) == 10_004
    assert joined == sorted(set(joined))
    assert max(file.stat().st_size for file in files) <= 1.2 * 2**20
    assert sum(file.stat().st_size for file in files) / len(files) > 0.5 * 2**20


@pytest.mark.usefixtures("programs")
def test_a_killed_export_is_finished_or_superseded(output: Folder, to: Folder, ask: Asked) -> None:
    """Kill -9 before and after each step; LATEST always names a whole snapshot, and the next run leaves no rest."""
    for day in range(3, 10):
        commit(output, day, [f"/r/{day}.jpg"])
    ask()
    left = 15
    for first, (kill, is_complete, is_latest) in enumerate(_KILLS, start=3):
        # A snapshot of fewer days is all taken over.
        arguments = export_arguments(output, to, "--since", f"{DAY + timedelta(days=first):%Y-%m-%d}")
        former = named(to)
        killed = run("tests.support.killing", [*kill.split(), "streaming", *arguments])
        assert killed.returncode == -signal.SIGKILL, killed.stdout
        assert (snapshots(to)[-1].complete, named(to) != former) == (is_complete, is_latest), kill
        assert len(table(named(to))) == left if not is_latest else 10 - first
        assert stream(arguments) == 0
        left = 10 - first
        assert len(table(named(to))) == left
        assert all(one.complete for one in snapshots(to))
        assert not (Path(to.root) / "_tmp").exists() or not [*to.names("_tmp")][1:]


def test_the_snapshots_of_another_output_are_left_alone(
    output: Folder, to: Folder, ask: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By this export, and by a later `forget` of its output, which erases in what its exports have recorded."""
    ask()
    other = open_folder(str(tmp_path / "other"))
    begin(other)
    fill(other)
    said = json.loads(Asked(other, to, capsys)(code=2))["message"]
    assert said == f"export.to: {to.root} holds snapshots of {output.root}; choose another place"
    assert derivatives(other) == []


def test_a_day_that_cannot_be_listed_is_not_left_out(
    output: Folder, to: Folder, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot would lack it, and the one that has it be deleted; a file server that has lost it may find it."""
    ask("--keep", "1")
    commit(output, 5, ["/new.jpg"])
    day, scan = output.path("features/date=2026-01-31"), local._scan

    def refuse(folder: str) -> Any:
        if folder == day:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return scan(folder)

    monkeypatch.setattr(local, "_scan", refuse)
    told = ask("--keep", "1", "--no-wait", code=6)
    assert "date=2026-01-31 cannot be read: Stale file handle; nothing was exported" in told
    assert '"error": "TransientError"' in told
    monkeypatch.undo()
    Path(day).rename(to.path("elsewhere"))
    Path(day).symlink_to(to.path("elsewhere"))
    told = ask("--keep", "1", "--log-format", "text", code=6)
    assert f"{day} is a link to a folder, and these are not followed; nothing was exported" in told
    assert len(snapshots(to)) == 1


def test_old_snapshots_that_cannot_be_deleted_hold_nothing_up(
    output: Folder, to: Folder, ask: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On NFS, a file that somebody reads on this machine stays under another name, which is busy."""
    ask()
    delete = LocalFolder.delete_tree

    def refuse(folder: LocalFolder, name: str) -> None:
        raise TransientError(f"{folder.path(name)}: cannot delete it: Device or resource busy")

    monkeypatch.setattr(LocalFolder, "delete_tree", refuse)
    for day in (5, 6):
        commit(output, day, ["/new.jpg"])
        assert stream(export_arguments(output, to, "--keep", "1")) == 0
        assert "Device or resource busy; the next export deletes what is left" in capsys.readouterr().err
    assert len(table(named(to))) == 10
    monkeypatch.setattr(LocalFolder, "delete_tree", delete)
    ask("--keep", "1")
    assert [one.id for one in snapshots(to)] == [named(to).name]


@pytest.mark.usefixtures("programs")
def test_an_export_that_is_killed_while_it_writes_leaves_nothing_that_counts(
    output: Folder, to: Folder, ask: Asked
) -> None:
    """Nor does the next one read it."""
    killed = run(
        "tests.support.killing", ["after", "create", "*/date=*", "2", "streaming", *export_arguments(output, to)]
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert latest(to) is None
    [half] = snapshots(to)
    assert (half.complete, len(half.files)) == (False, 2)
    assert "rows         8 of" in ask()
    assert len(table(named(to))) == 8
    assert [one.id for one in snapshots(to)] == [named(to).name]


@pytest.mark.usefixtures("jvm", "programs")
def test_nor_does_one_that_is_killed_while_its_workers_write(output: Folder, to: Folder, ask: Asked) -> None:
    for day in range(3, 40):
        commit(output, day, [f"/r/{day}/{number}.jpg" for number in range(100)])
    trap = ["before", "watch", f"{glob.escape(to.root)}/*/date=*/*.parquet", "1", "tests.support.by_spark"]
    killed = run("tests.support.killing", [*trap, *export_arguments(output, to)])
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert latest(to) is None
    [half] = snapshots(to)
    assert not half.complete
    assert half.files
    assert "rows         3,708 of" in ask()
    assert len(table(named(to))) == 3708
    # Workers, which end after their JVM, may have written a last file meanwhile.
    assert [one.id for one in snapshots(to) if one.complete] == [named(to).name]


@pytest.fixture
def both(jvm: None, output: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Both:
    return Both(output, (open_folder(str(tmp_path / "one")), open_folder(str(tmp_path / "other"))), capsys)


def test_spark_makes_the_same_snapshot(output: Folder, both: Both) -> None:
    """File by file to the byte; each goes on with what the other has made, and a damaged file is named alike."""
    both()
    one, other = map(files, both.snapshots())
    assert one == other
    commit(output, 2, [f"/q/{number * 7919 % 12_000:05}.jpg" for number in range(12_000)])
    assert ["2 of them taken over from" in said for said in both()] == [True, True]
    one, other = map(files, both.snapshots())
    assert one.keys() == other.keys()
    first, second = map(table, both.snapshots())
    assert first.equals(second)
    damaged = commit(output, 1, ["/q/damaged.jpg"])
    Path(output.path(f"features/date=2026-01-31/{damaged}.parquet")).write_bytes(b"PAR1")
    said, by_spark = (text.splitlines()[-1] for text in both("--log-format", "text", code=5))
    assert said == by_spark
    assert f"{damaged}.parquet cannot be read: " in said


def test_spark_makes_the_same_snapshot_of_csv(both: Both) -> None:
    both("--format", "csv")
    one, other = map(files, both.snapshots())
    assert one == other


def test_what_was_submitted_to_a_cluster_has_a_session(
    output: Folder, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise YARN would take it for failed."""

    def start_session(*_: object) -> None:
        raise OutputError("a session was asked for")

    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    monkeypatch.setattr(compaction, "spark_session", start_session)
    assert "a session was asked for" in ask(code=5)


def test_wrong_places_are_answered_in_one_line(output: Folder, to: Folder, ask: Asked, tmp_path: Path) -> None:
    """Without Spark."""
    inside = open_folder(output.path("exports"))
    assert stream(export_arguments(output, inside)) == 2
    assert stream(export_arguments(open_folder(str(tmp_path / "nothing")), to)) == 5
    assert stream(["export", "--output", output.root]) == 2
    with working_on(to, LONG), pytest.raises(LeaseHeldError, match="another export or forget works here: process"):
        working_on(to, LONG).__enter__()
    assert "another export or forget" not in ask("--dry-run")


def test_what_is_not_what_was_read_is_not_published(output: Folder, to: Folder) -> None:
    """Rows are compared day by day, files by name and size."""
    places = ExportPlaces.of(load_settings({"output": output.root, "export.to": to.root}))
    file = SnapshotFile(name="date=2026-01-30/part-00000-000.parquet", rows=4, bytes=3)
    day = SnapshotDay(date=DAY.date(), source="", manifests=2, latest_manifest="", files=(file,))
    snapshot = "20260130T120000000000Z-e3b0c442"
    made = Snapshot(
        snapshot=snapshot, output="", created_at=DAY, format="parquet", since=None, target_mb=1, days=(day,)
    )
    to.create(f"{snapshot}/{file.name}", b"PAR")
    check_written(places, made, Compacted({day.date: Counts(4, 2)}, {day.date: [file]}))
    for counts in ({day.date: Counts(5, 1)}, {day.date: Counts(4, 2), date(2026, 1, 31): Counts(1, 0)}):
        with pytest.raises(OutputError, match="is not what was read"):
            check_written(places, made, Compacted(counts, {day.date: [file]}))
    to.create(f"{snapshot}/date=2026-01-30/part-stray.parquet", b"PAR")
    with pytest.raises(OutputError, match="nothing was published"):
        check_written(places, made, Compacted({day.date: Counts(4, 2)}, {day.date: [file]}))


@pytest.mark.parametrize(
    "data", [b"PAR1", as_parquet(pa.table({"path": ["a"]}))], ids=["truncated", "of another table"]
)
def test_a_damaged_file_is_named(data: bytes) -> None:
    """Of thousands that are read by workers."""
    with pytest.raises(
        OutputError, match=r"/a\.parquet cannot be read: .* restore it from a copy; deleting it loses its rows for good"
    ):
        _rows_of("/a.parquet", data)


def test_a_snapshot_can_be_dropped_unless_it_is_the_latest(
    output: Folder, to: Folder, ask: Asked, tmp_path: Path
) -> None:
    """What was taken over from it stays. Snapshots of two outputs are not mixed."""
    ask()
    shutil.copytree(output.root, tmp_path / "other")
    assert stream(export_arguments(open_folder(str(tmp_path / "other")), to)) == 2
    first = named(to)
    commit(output, 3, ["/new.jpg"])
    ask()
    second = named(to)
    with pytest.raises(OutputError, match="is what LATEST names"):
        drop(to, second.name)
    drop(to, first.name)
    drop(to, first.name)
    assert [one.id for one in snapshots(to)] == [second.name]
    assert not first.exists()
    assert len(table(second)) == 9
    assert "nothing new" in ask()
    ask("--since", "2026-01-31", "--keep", "1")
    assert [one.id for one in snapshots(to)] == [named(to).name]


def test_older_snapshots_go_but_never_the_latest(to: Folder, ask: Asked) -> None:
    """Although nothing is new; and although a clock was set back, so that others seem to be younger."""
    for since in ("2026-01-30", "2026-01-31", "2026-02-01"):
        ask("--since", since)
    _, second, third = (one.id for one in snapshots(to))
    assert "nothing new" in ask("--since", "2026-02-01", "--keep", "2")
    assert [one.id for one in snapshots(to)] == [second, third]
    with pytest.raises(OutputError, match=f"names a later snapshot, {third}"):
        promote(to, second)
    # As an earlier release has left it, after a clock was set back.
    named, tag = to.read_tagged("LATEST")
    to.replace("LATEST", named.replace(third.encode(), second.encode()), tag)
    drop_older(to, 1)
    assert [one.id for one in snapshots(to)] == [second, third]


@pytest.mark.usefixtures("jvm", "programs")
@pytest.mark.parametrize("store", ["versitygw"], indirect=True)
def test_export_on_s3(bucket: Bucket, tmp_path: Path, output: Folder) -> None:
    """By Spark, from and to a bucket; unchanged days are copied by the store; by itself, from a bucket to a folder."""
    bucket.put_tree(Path(output.root), "output 100%25")
    arguments = ["export", "--output", bucket.uri("output 100%25"), "--master", "local[2,4]", "--to"]
    to = open_folder(bucket.uri("exports é"))
    done = run("tests.support.by_spark", [*arguments, to.root])
    assert done.returncode == 0, done.stdout
    assert "rows         8 of 6 manifests" in done.stdout
    [first] = snapshots(to)
    done = run("streaming", [*arguments, to.root, "--since", "2026-01-31"])
    assert done.returncode == 0, done.stdout
    assert f"files        2, 2 of them taken over from {first.id}" in done.stdout
    present = latest(to)
    assert present
    expected = table(output.path("features")).to_pandas()
    for snapshot, rows in ((first.id, expected), (present.snapshot, expected[expected["date"] != "2026-01-30"])):
        tables = [pq.read_table(pa.BufferReader(to.read(name))) for name in to.names(snapshot)]
        paths = [path for table in tables for path in table["path"].to_pylist()]
        assert paths == rows.sort_values(["date", "path"])["path"].tolist()
    here = open_folder(str(tmp_path / "here"))
    done = run("streaming", [*arguments, here.root, "--format", "csv"])
    assert done.returncode == 0, done.stdout
    [header, row] = gzip.decompress(next(named(here).glob("two/*")).read_bytes()).decode().splitlines()
    assert header.endswith('"f5"')
    assert row.startswith('"/q/0.jpg"')
