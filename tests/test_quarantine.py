"""The verbs of quarantine, with the stream that does what they ask."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from streaming import known
from streaming.__main__ import main as stream
from streaming.features.storage import open_folder
from streaming.features.stored import StoredPicture
from streaming.manifests import manifest_ids
from streaming.requests import create_request
from streaming.retries import retry_ids
from tests.buckets import Bucket
from tests.servers import versitygw
from tests.streams import Place, run, start

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
        died = run("tests.killing", [*point, "1", "streaming", *place.arguments("replay", "--epoch-manifests", "1")])
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
    known.fold(output, manifest_ids(output))
    for name in [*output.names("features")]:  # as a lifecycle rule does with what is old
        output.delete(name)
    assert ask("list") == listed


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
    """Before Spark starts."""
    try:
        code = stream(["quarantine", *arguments, "--output", str(place.output)])
    except SystemExit as leave:
        code = int(leave.code or 0)
    assert code in (2, 5)
    [line] = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.mark.parametrize("store", [versitygw], ids=["versitygw"], indirect=True)
def test_a_running_stream_retries_what_was_restored_on_s3(
    bucket: Bucket, fitted: Path, pictures: list[Path], wait_for: Callable[..., None]
) -> None:
    """An object that was deleted after it was listed, and uploaded again."""
    bucket.put_tree(fitted, "models")
    paths = bucket.put(pictures[:3])
    gone = StoredPicture(f"s3://{bucket.name}/input/apple/{pictures[3].name}", 7, LONG_AGO)
    create_request(open_folder(bucket.uri("output")), [gone])
    running = start("streaming", bucket.arguments("run", "--interval", "200ms"))
    wait_for(lambda: bucket.committed() == 2, 120)
    assert bucket.rows("quarantine")["reason"].to_pylist() == ["vanished"]
    bucket.put(pictures[3:4])
    verb = ["quarantine", "retry", "--output", bucket.uri("output"), "--master", "local[2,4]"]
    asked = run("streaming", verb)
    assert asked.returncode == 0, asked.stdout
    assert "1 pictures in 1 request" in asked.stdout
    wait_for(lambda: len(bucket.rows("quarantine")) == 0, 60)
    running.terminate()
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 0, said
    assert bucket.counted() == dict.fromkeys([*paths, gone.path], 1)
    [row] = [row for row in bucket.rows().to_pylist() if row["path"] == gone.path]
    assert row["length"] == pictures[3].stat().st_size
