"""The verbs of quarantine, with the stream that does what they ask."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from streaming.__main__ import main as stream
from streaming.features.schema import QUARANTINE
from streaming.output import known
from streaming.output.manifests import manifest_ids, manifest_name, prepare_log, table_file, to_json_lines
from streaming.output.requests import create_request
from streaming.output.retries import retry_ids
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.local_folder import LocalFolder
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet
from tests.support.buckets import Bucket
from tests.support.streams import Place, run, start
from tests.support.tenures import LooseTenure

pytestmark = pytest.mark.usefixtures("programs")

LONG_AGO = datetime(2026, 1, 31, tzinfo=UTC)


class _Asked:
    """The verb in this process, asked for JSON."""

    def __init__(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        self._output = str(place.output)
        self._capsys = capsys

    def __call__(self, action: str, *more: str) -> dict[str, Any]:
        self._capsys.readouterr()
        assert stream(["quarantine", action, "--output", self._output, "--master", "local[2,4]", "--json", *more]) == 0
        answer: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return answer


def test_what_passes_leaves_quarantine_whatever_is_killed(
    place: Place, pictures: list[Path], broken: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture that was gone is back, one was replaced, one is still broken; the stream dies between its steps."""
    good, bad = place.put(*pictures[:5]), place.put(*broken[:2], folder="é %")
    gone = StoredPicture(str(place.source / "apple" / pictures[6].name), 7, LONG_AGO)
    create_request(open_folder(str(place.output)), [gone])
    assert stream(place.arguments("replay", "--max-pictures", "3")) == 0
    before = {row["path"]: row for row in place.rows("quarantine").to_pylist()}
    assert set(before) == {*bad, gone.path}
    for file in place.output.glob("quarantine/*/2*"):  # as a kill right after the decision leaves it
        file.unlink()
    ask = _Asked(place, capsys)
    listed = ask("list")
    assert sum(listed["reasons"].values()) == 3
    assert {row["path"]: row["detail"] for row in listed["newest"]} == {
        path: row["detail"] for path, row in before.items()
    }
    assert ask("list", "--reason", "vanished")["reasons"] == {"vanished": 1}

    place.put(pictures[6])
    shutil.copy(pictures[7], bad[0])
    assert ask("retry", "--dry-run") == {"pictures": 3, "requests": None}
    assert ask("retry", "--reason", "vanished")["pictures"] == 1
    [first] = ask("retry", "--reason", "vanished")["requests"]
    asked = ask("retry")
    assert {first, *asked["requests"]} == {*retry_ids(open_folder(str(place.output)))}
    for point in (
        ("after", "create", "_manifests/*-retry.json"),
        ("before", "create", "features/*-retry.parquet"),
        ("after", "create", "features/*-retry.parquet"),
        ("after", "replace", "quarantine/*"),
    ):
        died = run(
            "tests.support.killing", [*point, "1", "streaming", *place.arguments("replay", "--epoch-manifests", "1")]
        )
        assert died.returncode == -signal.SIGKILL, (point, died.stdout)
        assert set(place.counted()) == {*good, *bad, gone.path}
    assert stream(place.arguments("replay")) == 0
    assert place.counted() == dict.fromkeys([*good, *bad, gone.path], 1)
    [still] = place.rows("quarantine").to_pylist()
    assert (still["path"], still["reason"]) == (bad[1], before[bad[1]]["reason"])
    assert still["processed_at"] > before[bad[1]]["processed_at"]
    [replaced] = [row for row in place.rows("features").to_pylist() if row["path"] == bad[0]]
    assert replaced["length"] == pictures[7].stat().st_size
    assert replaced["modification_time"].timestamp() == pytest.approx(Path(bad[0]).stat().st_mtime, abs=1e-5)
    listed = ask("list")
    assert (sum(listed["reasons"].values()), listed["retries"]) == (1, 0)
    output = open_folder(str(place.output))
    known.fold(LooseTenure(output), manifest_ids(output))
    for name in [*output.names("features")]:  # as a lifecycle rule does with what is old
        output.delete(name)
    assert ask("list") == listed


def _put(output: Folder, hours: int, *rows: tuple[str, str]) -> str:
    """A quarantine file as the stream writes it so many hours after `LONG_AGO`: path and reason of each row."""
    at = LONG_AGO + timedelta(hours=hours)
    manifest = f"{at:%Y%m%dT%H%M%S%fZ}-{hours:08x}"
    columns = {
        "modification_time": LONG_AGO,
        "length": 7,
        "detail": "as it is",
        "model_version": "m",
        "processed_at": at,
    }
    table = pa.Table.from_pylist([{"path": path, "reason": reason, **columns} for path, reason in rows], QUARANTINE)
    output.create(table_file("quarantine", manifest), as_parquet(table))
    return manifest


def _list(output: Folder, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert stream(["quarantine", "list", "--output", output.root, "--json", *more]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_list_counts_all_rows_and_shows_the_newest(output: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """Without Java. Of a micro-batch, rows come by path; those of a manifest that is not decided do not count."""
    prepare_log(output)
    for hours in range(40):
        _put(output, hours, (f"/in/{hours}-b", "corrupt"), (f"/in/{hours}-a", "empty"), (f"/in/{hours}-c", "corrupt"))
    _put(output, 41)
    undecided = _put(output, 42, ("/in/undecided", "corrupt"))
    output.create(manifest_name(undecided), to_json_lines([], manifest=undecided))
    listed = _list(output, capsys)
    assert list(listed["reasons"].items()) == [("corrupt", 80), ("empty", 40)]
    assert [row["path"] for row in listed["newest"]] == [f"/in/{h}-{x}" for h in (39, 38, 37) for x in "abc"] + [
        "/in/36-a"
    ]
    assert listed["newest"][0] == {
        "path": "/in/39-a",
        "reason": "empty",
        "detail": "as it is",
        "when": (LONG_AGO + timedelta(hours=39)).isoformat(),
    }
    only = _list(output, capsys, "--reason", "empty")
    assert only["reasons"] == {"empty": 40}
    assert [row["path"] for row in only["newest"]] == [f"/in/{hours}-a" for hours in range(39, 29, -1)]


def test_a_damaged_file_is_named_and_a_deleted_one_has_no_rows(
    output: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latter is deleted after it was listed."""
    prepare_log(output)
    _put(output, 1, ("/in/a", "corrupt"))
    names, damaged = list(output.names("quarantine")), "quarantine/date=2026-01-31/damaged.parquet"
    with monkeypatch.context() as context:
        context.setattr(
            LocalFolder, "names", lambda folder, prefix: [*names, damaged] if prefix == "quarantine" else []
        )
        assert _list(output, capsys)["reasons"] == {"corrupt": 1}
    output.create(damaged, b"PAR1 and so on")
    assert stream(["quarantine", "list", "--output", output.root]) == 5
    assert f"{output.path(damaged)} cannot be read: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["retry"], "no stream has written here yet; check --output"),
        (["list", "--dry-run"], "takes no --dry-run"),
        (["list", "--reason", "ugly"], "invalid choice: 'ugly'"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    place: Place, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    """Before anything is read."""
    try:
        code = stream(["quarantine", *arguments, "--output", str(place.output)])
    except SystemExit as leave:
        code = int(leave.code or 0)
    assert code in (2, 5)
    [line] = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.mark.parametrize("store", ["versitygw"], indirect=True)
def test_a_running_stream_retries_what_was_restored_on_s3(
    bucket: Bucket,
    fitted: Path,
    pictures: list[Path],
    wait_for: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An object that was deleted after it was listed, and uploaded again."""
    bucket.put_tree(fitted, "models")
    paths = bucket.put(pictures[:3])
    gone = StoredPicture(f"s3://{bucket.name}/input/apple/{pictures[3].name}", 7, LONG_AGO)
    create_request(open_folder(bucket.uri("output")), [gone])
    running = start("streaming", bucket.arguments("run", "--interval", "200ms"))
    wait_for(lambda: bucket.has([*paths, gone.path]), 300)
    assert bucket.rows("quarantine")["reason"].to_pylist() == ["vanished"]
    bucket.put(pictures[3:4])
    assert stream(["quarantine", "retry", "--output", bucket.uri("output"), "--master", "local[2,4]"]) == 0
    assert "1 picture in 1 request" in capsys.readouterr().out
    wait_for(lambda: len(bucket.rows("quarantine")) == 0, 180)
    running.terminate()
    said, _ = running.communicate(timeout=180)
    assert running.returncode == 0, said
    assert bucket.counted() == dict.fromkeys([*paths, gone.path], 1)
    [row] = [row for row in bucket.rows().to_pylist() if row["path"] == gone.path]
    assert row["length"] == pictures[3].stat().st_size
