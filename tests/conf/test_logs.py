"""What machines and people read of a program: its last line, and the files of its log."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conf.logs import Log, logging_to
from conf.settings import LogSettings
from conf.spark.ticks import Ticks
from conf.uris import resolve
from streaming.__main__ import main as stream
from streaming.engine.progress import ReplayProgress
from streaming.output.batch_report import BatchReport

_OLD = 100 * 86400


def _last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """All lines of stderr are JSON; the last."""
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all({"time", "level", "message", "pid"} <= set(line) for line in lines)
    last: dict[str, Any] = lines[-1]
    return last


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "told"),
    [
        (["status", "--output", "{here}"], 5, "OutputError", "no stream has written here yet"),
        (["status", "--output", "{here}", "--debug"], 5, "OutputError", "no stream has written here yet"),
        (["status"], 2, "SettingsError", "output: is missing"),
        (["status", "--outputs", "x"], 2, "SettingsError", "unrecognized arguments: --outputs x"),
        (["status", "--output", "{here}", "--config", "{here}/none"], 2, "SettingsError", "cannot read it"),
        (["status", "--output", "{here}", "--log-folder", "/proc/none"], 2, "SettingsError", "log.folder"),
    ],
)
def test_in_json_the_last_line_is_json_too(
    arguments: list[str], code: int, kind: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit code, also where the program did not come as far as to its log, and without a bare traceback.

    It is JSON by default where stderr is not a terminal.
    """
    words = [word.replace("{here}", str(tmp_path)) for word in arguments]
    for asked in ([], ["--log-format", "auto"], ["--log-format", "json"]):
        assert stream([*words, *asked]) == code
        line = _last_line(capsys)
        assert (line["level"], line["exit_code"], line["error"]) == ("error", code, kind)
        assert told in line["message"]


def test_an_unexpected_failure_is_json_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the file that has the traceback; the variable of the environment counts as the flag does."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setenv("PICTURE_FEATURES_LOG__FORMAT", "json")
    monkeypatch.setattr("streaming.output.places.open_output", fail)
    assert stream(["status", "--output", str(tmp_path)]) == 1
    line = _last_line(capsys)
    assert (line["exit_code"], line["error"], line["output"]) == (1, "ZeroDivisionError", str(tmp_path))
    message, _, file = line["message"].rpartition(" (details: ")
    assert message == "unexpected failure: ZeroDivisionError: a defect"
    logged = [json.loads(one) for one in Path(file.removesuffix(")")).read_text().splitlines()]
    assert "Traceback" in logged[0]["traceback"]
    assert (logged[-1]["pid"], logged[-1]["output"], logged[-1]["exit_code"]) == (os.getpid(), str(tmp_path), 1)
    assert stream(["status"]) == 2
    assert _last_line(capsys)["exit_code"] == 2


def test_people_get_one_line_of_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And not the same again in JSON."""
    assert stream(["status", "--output", str(tmp_path), "--log-format", "text"]) == 5
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}: no stream has written here yet")


def _log(folder: Path, output: str | None, program: str = "streaming-run") -> Path:
    with logging_to(LogSettings(folder=folder), program, output and resolve(output)) as log:
        logging.getLogger("streaming").info("a line")
        file = log.file
    [line] = [json.loads(line) for line in file.read_text().splitlines()]
    assert (line["pid"], line.get("output")) == (os.getpid(), output and resolve(output))
    return file


def test_each_output_has_a_log_file_of_its_own(tmp_path: Path) -> None:
    """And each program; who writes there, and to which output, is in each line."""
    places = [None, "table", "/a/table", "/b/table", "s3a://bucket/table", "s3a://bucket/a b", "s3://bucket"]
    files = [_log(tmp_path, place) for place in places]
    assert len({*files, _log(tmp_path, "/a/table", "streaming-replay")}) == len(places) + 1
    assert files[0].name == "streaming-run.log"
    assert files[2].name.startswith("streaming-run-table-")
    for one, other in (("/a/table", "file:///a/./table/"), ("s3a://bucket/table", "S3://bucket/table/")):
        assert resolve(one) == resolve(other)


def test_files_of_outputs_that_nobody_writes_to_any_more_go(tmp_path: Path) -> None:
    """Those of an idle stream, of Spark, and what others keep in the folder, stay."""

    def age(*files: Path) -> None:
        for file in files:
            os.utime(file, (time.time() - _OLD,) * 2)

    gone, rolled = _log(tmp_path, "/gone"), tmp_path / "spark-gone-01234567.log.1"
    kept = [tmp_path / "notes.log", tmp_path / "streaming.log"]
    for file in (rolled, *kept):
        file.touch()
    with logging_to(LogSettings(folder=tmp_path), "streaming-run", "/idle") as idle:
        assert isinstance(idle, Log)
        age(gone, rolled, idle.file, *kept)
        recent = _log(tmp_path, "/recent")
        assert {*tmp_path.iterdir()} == {idle.file, recent, *kept}


@pytest.mark.parametrize("quarantined", [20, 19, 0])
def test_a_replay_that_could_use_no_picture_warns(quarantined: int, caplog: pytest.LogCaptureFixture) -> None:
    """20 rows in quarantine and none in features are rather a wrong folder than 20 broken pictures."""
    progress = ReplayProgress(Ticks())
    reasons = Counter(not_an_image=quarantined)
    progress.advance(BatchReport("m", 15, Counter(not_an_image=min(quarantined, 15)), 1, 1, "v", None))
    progress.advance(BatchReport("n", 5, reasons - Counter(not_an_image=15), 1, 1, "v", None))
    progress.warn()
    warned = "none of 20 pictures could be used (not_an_image 20): check --input" in caplog.text
    assert warned == (quarantined == 20)
