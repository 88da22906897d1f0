"""Reconcile: what the stream has not seen, or not as it is now, and how it is asked for.

All is small here, so that this process compares it, but in tests of Spark, which have the fixture `jvm` or `programs`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from conf.errors import OutputError, PlatformError
from streaming.__main__ import main as stream
from streaming.lease.denylist import Entry, add_entry, make_salt
from streaming.operate import in_process, on_spark, reconcile
from streaming.operate.comparison import at_rest
from streaming.operate.in_process import compare_in_process
from streaming.output import known, manifests, requests
from streaming.output.places import Input
from streaming.output.retries import Quarantined, create_retry
from streaming.storage.folder import Folder
from streaming.storage.locations import list_pictures, open_folder
from streaming.storage.parquet import read_footer
from tests.support.reconciling import ODD, Asked, counts_in, look_once, put, reconcile_arguments
from tests.support.streams import Place, begin
from tests.support.tenures import LooseTenure


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in [1]"
    put(folder, *ODD)
    return folder


@pytest.fixture
def output(tmp_path: Path, source: Path) -> Folder:
    """One that knows what is in `source`."""
    folder = open_folder(str(tmp_path / "out *"))
    look_once(str(source), folder)
    return folder


def _on_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process, "LIMIT", 0)


@pytest.mark.parametrize("folded", [0, 2, 3], ids=["log", "log and record", "record"])
def test_missed_changed_and_gone_are_told_apart(
    source: Path, output: Folder, folded: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether manifests are in the log or folded, in any folder, under any name."""
    known.fold(LooseTenure(output), manifests.manifest_ids(output)[:folded])
    put(source, "a b/é/new %+#.jpg", "new/é/1.jpg")
    (source / "a b/#?.jpg").write_bytes(b"longer than it was")
    os.utime(source / "top=.jpg", (1, 1))
    (source / "_x/.y.jpg").unlink()
    (source / "link").symlink_to(source / "c")
    answer = Asked(source, output.root, capsys)()
    assert counts_in(answer) == {"listed": 7, "missed": 2, "changed": 2, "gone": 1, "left_out": 1}
    assert answer["missed_examples"] == [str(source / "a b/é/new %+#.jpg"), str(source / "new/é/1.jpg")]
    [longer, touched] = answer["changed_examples"]
    assert longer["path"] == str(source / "a b/#?.jpg")
    assert (longer["known_length"], longer["length"]) == (len("a b/#?.jpg"), 18)
    assert touched["modification_time"] == "1970-01-01T00:00:01+00:00"
    assert answer["requests"] is None
    assert not list(output.names(requests.REQUESTS_FOLDER))


def test_what_a_killed_fold_left_twice_is_known_once(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record holds what the log still holds."""

    def die(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "delete", die)
    with suppress(KeyboardInterrupt):
        known.fold(LooseTenure(output), manifests.manifest_ids(output))
    assert len(manifests.manifest_ids(output)) == 3
    assert counts_in(Asked(source, output.root, capsys)()) == {"listed": 6}


def test_a_fold_in_between_is_no_loss(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stream moves what is being compared, after its names were listed: it is compared again."""
    read = in_process._read

    def fold_and_read(*arguments: Any) -> Any:
        known.fold(LooseTenure(output), manifests.manifest_ids(output))
        return read(*arguments)

    monkeypatch.setattr(in_process, "_AT_ONCE", 1)
    monkeypatch.setattr(in_process, "_read", fold_and_read)
    assert counts_in(Asked(source, output.root, capsys)()) == {"listed": 6}


def test_a_fold_that_had_begun_is_no_loss(source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of its file was there before, but no rows: what reads the record first misses what leaves the log."""
    announced, go_on = threading.Event(), threading.Event()

    def pause_when_announced() -> None:
        if any(known._ANNOUNCED in read_footer(output, name) for name in output.names(known.KNOWN_FOLDER)):
            announced.set()
            go_on.wait()

    monkeypatch.setattr(known, "_MERGE_BELOW_ROWS", 0)  # or a file that it deletes would tell of it
    tenure = LooseTenure(output, pause_when_announced)
    folding = threading.Thread(target=known.fold, args=(tenure, manifests.manifest_ids(output)))
    folding.start()
    assert announced.wait(60)

    def compare() -> int:
        folded = known.count_folded(output)
        go_on.set()
        folding.join()
        return folded + sum(len(manifests.read_manifest(output, one)) for one in manifests.manifest_ids(output))

    assert at_rest(output, compare) == len([*list_pictures(str(source), print)])


@pytest.mark.usefixtures("jvm")
def test_a_fold_in_between_is_no_loss_on_spark(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, where Spark has listed the names."""
    compare = on_spark._compare

    def fold_and_compare(*arguments: Any) -> Any:
        known.fold(LooseTenure(output), manifests.manifest_ids(output))
        return compare(*arguments)

    _on_spark(monkeypatch)
    monkeypatch.setattr(on_spark, "_compare", fold_and_compare)
    assert counts_in(Asked(source, output.root, capsys)()) == {"listed": 6}


@pytest.mark.usefixtures("jvm")
def test_spark_finds_what_this_process_finds(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All kinds, of pictures in record, log and requests, or in two of them: counts, examples and requests."""
    monkeypatch.setattr(reconcile, "PICTURES_PER_REQUEST", 3)
    put(source, "forgotten.jpg", "c/old.tmp", "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    look_once(str(source), output)
    logged = manifests.manifest_ids(output)
    twice = [output.read(manifests.manifest_name(manifest)) for manifest in logged[2:4]]
    known.fold(LooseTenure(output), logged[:4])
    for manifest, data in zip(logged[2:4], twice, strict=True):
        output.create(manifests.manifest_name(manifest), data)
    put(source, "asked 1.jpg", "asked 2.jpg", "new/young.jpg")
    stored = {picture.path: picture for picture in list_pictures(str(source), print)}
    create_retry(output, [Quarantined(stored[str(source / "b.jpg")], logged[0])])
    asked = [stored[str(source / name)] for name in ("a.jpg", "asked 1.jpg", "asked 2.jpg")]
    requests.create_request(output, asked)
    (source / "a b/#?.jpg").write_bytes(b"longer than it was")
    os.utime(source / "top=.jpg", (1, 1))
    os.utime(source / "a.jpg", ns=(1, 1_999))
    (source / "_x/.y.jpg").unlink()
    (source / "d.jpg").unlink()
    for name in "\U0001f34e\uff5ezZ aéb":  # which are of the past, as no new file is
        (source / f"new/{name}.jpg").symlink_to(os.__file__)
    put(source, ".DS_Store", "@eaDir/a.jpg", "new/forgotten.jpg")
    (source / "to c").symlink_to(source / "c")
    forgotten = [str(source / name) for name in ("forgotten.jpg", "new/forgotten.jpg")]
    add_entry(output, Entry.of(forgotten, [], make_salt(output), datetime.now(UTC)))
    ask = Asked(source, output.root, capsys)

    here = ask("--settle", "1s", "--enqueue")
    assert counts_in(here) == {
        "listed": 20,
        "missed": 8,
        "changed": 3,
        "gone": 3,
        "requested": 2,
        "unsettled": 1,
        "left_out": 1,
        "ignored": 3,
    }
    assert len(here["requests"]) == 3
    for request in here["requests"]:
        requests.delete_request(output, request)
    _on_spark(monkeypatch)
    (source / "new/young.jpg").touch()  # Java's start may take its time
    assert ask("--settle", "1s", "--enqueue") == here


@pytest.mark.parametrize("folded", [0, 2, 3], ids=["log", "log and record", "record"])
def test_more_than_a_limit_is_left_to_spark(
    source: Path, output: Folder, folded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether more are listed or more were seen."""
    known.fold(LooseTenure(output), manifests.manifest_ids(output)[:folded])

    def limited(limit: int) -> int | None:
        monkeypatch.setattr(in_process, "LIMIT", limit)
        differences = compare_in_process(Input(str(source)), output, timedelta(0))
        return differences.listed if differences else None

    assert (limited(6), limited(5)) == (6, None)
    (source / ODD[0]).unlink()
    assert (limited(6), limited(5)) == (5, None)
    put(source, "1.jpg", "2.jpg", "3.jpg")
    assert (limited(8), limited(7)) == (8, None)


def test_what_spark_submit_starts_is_left_to_spark(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However small it is, as YARN waits for the session."""

    def refuse(*_: object) -> None:
        raise PlatformError("there is no session here")

    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    monkeypatch.setattr(reconcile, "spark_session", refuse)
    assert stream(reconcile_arguments(source, output.root)) == PlatformError.exit_code
    assert "there is no session here" in capsys.readouterr().err


@pytest.mark.parametrize("folder", [manifests.LOG_FOLDER, known.KNOWN_FOLDER, requests.REQUESTS_FOLDER])
def test_a_damaged_file_is_one_line(
    source: Path, output: Folder, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which names it."""
    known.fold(LooseTenure(output), manifests.manifest_ids(output)[:1])
    requests.create_request(output, [*list_pictures(str(source), print)])
    [*_, damaged] = [name for name in output.names(folder) if not name.endswith(".txt")]
    Path(output.path(damaged)).write_bytes(b"{}")
    capsys.readouterr()
    assert stream(reconcile_arguments(source, output.root, "--log-format", "text")) == OutputError.exit_code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {output.path(damaged)} cannot be read: ")


def test_what_file_managers_leave_is_passed_over_and_a_request_that_is_taken_in_meanwhile_is_seen(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stream turns the request into a manifest between the listing of requests and that of manifests."""
    for name in ("_manifests/._a.json", "_requests/.DS_Store", "_known/._a.parquet"):
        output.create(name, b"?")
    put(source, "late.jpg")
    [late] = [one for one in list_pictures(str(source), print) if one.path.endswith("late.jpg")]
    request = requests.create_request(output, [late])
    read = in_process._read

    def take_in(folder: Folder, name: str) -> pa.Table:
        if name.startswith(requests.REQUESTS_FOLDER):
            manifests.append_manifest(folder, [late], datetime.now(UTC))
            requests.delete_request(folder, request)
        return read(folder, name)

    monkeypatch.setattr(in_process, "_read", take_in)
    assert "missed" not in counts_in(Asked(source, output.root, capsys)())


def test_only_this_input_counts(source: Path, output: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """What an output knows of other folders is not gone, and a file that is being written is not missed yet."""
    assert counts_in(Asked(source / "c", output.root, capsys)("--settle", "0s")) == {"listed": 1}
    put(source, "being written.jpg")
    answer = Asked(source, output.root, capsys)("--settle", "1h", "--enqueue")
    assert counts_in(answer) == {"listed": 7, "unsettled": 1}
    assert answer["requests"] == []


def test_ignored_names_are_neither_missed_nor_gone(
    source: Path, output: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those that the stream saw when they were not ignored yet; what changed just now is not missed yet."""
    put(source, ".DS_Store", "@eaDir/a.jpg", "c/old.tmp")
    look_once(str(source), output)
    put(source, "c/@eaDir/b.jpg", "c/d/IMG.jpg.part", "young.jpg")
    (source / "a b/#?.jpg").unlink()
    ask = Asked(source, output.root, capsys)
    counts = counts_in(ask("--settle", "2s"))
    assert counts == {"listed": 6, "gone": 1, "unsettled": 1, "ignored": 5}
    assert counts_in(ask("--include", "*.JPG,_*", "--ignore", "@eadir/")) == {
        "listed": 6,
        "missed": 1,
        "gone": 1,
        "ignored": 5,
    }


def test_the_same_is_requested_once(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run twice, or killed in between: the same requests, in which each picture is once."""
    monkeypatch.setattr(reconcile, "PICTURES_PER_REQUEST", 3)
    missed = [f"{folder}/é {number}%.jpg" for folder in ("a b", "new/er") for number in range(4)]
    put(source, *missed)
    ask = Asked(source, output.root, capsys)
    first = ask("--enqueue")
    assert first["missed"] == 8
    assert sorted(first["requests"]) == requests.request_ids(output)
    asked = [[picture.path for picture in requests.read_request(output, one)] for one in first["requests"]]
    assert [len(paths) for paths in asked] == [3, 3, 2]
    assert [path for paths in asked for path in paths] == [str(source / name) for name in missed]
    requests.delete_request(output, first["requests"][1])  # as if it had been killed before it came there
    second = ask("--enqueue")
    assert counts_in(second) == {"listed": 14, "missed": 3, "requested": 5}
    assert second["requests"] == [first["requests"][1]]
    assert counts_in(ask("--enqueue")) == {"listed": 14, "requested": 8}
    assert sorted(first["requests"]) == requests.request_ids(output)


def test_people_are_told_what_to_do(source: Path, output: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten examples, the command that requests the missed, and that all is well."""
    arguments = reconcile_arguments(source, output.root)
    assert stream(arguments) == 0
    assert "all well     every picture" in capsys.readouterr().out
    put(source, *(f"{number:02}.jpg" for number in range(12)))
    (source / "top=.jpg").write_bytes(b"")
    assert stream(arguments) == 0
    said = capsys.readouterr().out
    assert "missed       12 in no manifest" in said
    assert said.count("/in [1]/0") == 10
    assert "and 2 more" in said
    assert "top=.jpg (8 bytes of" in said
    assert said.endswith("\nnext         the same command with --enqueue\n")


def test_an_output_that_has_seen_nothing_has_missed_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a log nor a record need be there."""
    put(tmp_path / "in", *ODD)
    output = open_folder(str(tmp_path / "out"))
    begin(output)
    (tmp_path / "out" / known.KNOWN_FOLDER).mkdir()
    assert counts_in(Asked(tmp_path / "in", output.root, capsys)()) == {"listed": 6, "missed": 6}


@pytest.mark.parametrize(
    ("source", "output", "code", "said"),
    [
        ("nowhere", "out", 3, "nowhere: there is no such folder; check --input"),
        ("empty", "out", 3, "empty: there are no pictures in this folder; check --input"),
        ("in", "nowhere", 5, "nowhere: no stream has written here yet; check --output"),
        ("in", "in/out", 2, "lies inside the input"),
    ],
)
def test_a_wrong_place_is_one_line(
    tmp_path: Path, source: str, output: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is compared."""
    put(tmp_path / "in", *ODD)
    (tmp_path / "empty").mkdir()
    begin(open_folder(str(tmp_path / "out")))
    assert stream(reconcile_arguments(tmp_path / source, str(tmp_path / output))) == code
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.usefixtures("jvm")
def test_requests_become_rows_once(place: Place, pictures: Sequence[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Beside what the stream finds by itself, and when a request is left after a kill."""
    paths = place.put(*pictures[:5])
    assert stream(place.arguments("replay")) == 0
    paths += place.put(*pictures[5:12], folder="pear é")
    ask = Asked(place.source, str(place.output), capsys)
    assert counts_in(ask("--enqueue")) == {"listed": 12, "missed": 7}
    output = open_folder(str(place.output))
    [request] = requests.request_ids(output)
    left = requests.read_request(output, request)
    assert stream(place.arguments("replay", "--max-pictures", "3")) == 0
    assert place.counted() == dict.fromkeys(paths, 1)
    assert requests.request_ids(output) == []
    assert place.committed() == 4
    assert requests.create_request(output, left) == request
    assert stream(place.arguments("replay", "--epoch-manifests", "1")) == 0
    assert requests.request_ids(output) == []
    assert place.counted() == dict.fromkeys(paths, 1)
    assert list(output.names(known.KNOWN_FOLDER))
    assert counts_in(ask()) == {"listed": 12}
