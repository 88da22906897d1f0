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

from conf.cli import Verb, make_parser, run_program
from conf.command import PROGRAMS
from conf.errors import InputError
from conf.loading import load_settings
from conf.logs import Log, log_folder, logging_to
from conf.settings import LogSettings, Settings
from conf.spark.session import _logs
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
    """With the traceback, as in the file that it names, which may end with the container; people get a line without.

    The variable of the environment counts as the flag does.
    """

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
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("ZeroDivisionError: a defect")
    assert logged[-1]["traceback"] == line["traceback"]
    assert (logged[-1]["pid"], logged[-1]["output"], logged[-1]["exit_code"]) == (os.getpid(), str(tmp_path), 1)
    assert stream(["status"]) == 2
    assert _last_line(capsys)["exit_code"] == 2
    assert stream(["status", "--output", str(tmp_path), "--log-format", "text"]) == 1
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith("error: unexpected failure: ZeroDivisionError: a defect (details: ")


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
    others = ("notes.log", "nginx-access-20240131.log", "spark-20240131.log")
    kept = [tmp_path / name for name in (*others, "streaming.log")]
    for file in (rolled, *kept):
        file.touch()
    with logging_to(LogSettings(folder=tmp_path), "streaming-run", "/idle") as idle:
        assert isinstance(idle, Log)
        age(gone, rolled, idle.file, *kept)
        recent = _log(tmp_path, "/recent")
        assert {*tmp_path.iterdir()} == {idle.file, recent, *kept}


def test_names_of_all_programs_are_ours(tmp_path: Path) -> None:
    """Those that begin a log file of an output, which is deleted once nobody writes to it."""
    settings = load_settings({"log.folder": str(tmp_path), "output": "/gone"})
    programs = [f"{program}-{verb}" for program, verbs in PROGRAMS.items() for verb in verbs]
    files = [_log(tmp_path, "/gone", program) for program in programs]
    files += [file for verb in ("", " fit") for file in _logs(f"picture-features{verb}", settings)]
    for file in files:
        file.touch()
        os.utime(file, (time.time() - _OLD,) * 2)
    recent = _log(tmp_path, "/recent")
    assert [*tmp_path.iterdir()] == [recent]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_full_disk_of_the_log_changes_no_answer(
    small_disk: Path, log_format: str, *, fails: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told once, in one line, before the line that ends the program."""

    def run(_settings: Settings, _options: object) -> str:
        for line in ("first", "second"):
            logging.getLogger("conf").info(line)
        if fails:
            raise InputError("no flour")
        return "baked"

    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(2 * 1024**2))
    parser = make_parser("bakery", "A bakery.", [Verb("bake", "Bake.", "Bake.", (), (), run)])
    words = ["bake", "--log-folder", str(small_disk), "--log-format", log_format]
    assert run_program("bakery", parser, words, lambda _: None) == (3 if fails else 0)
    said = capsys.readouterr()
    assert said.out == ("" if fails else "baked\n")
    told = [json.loads(line)["message"] if log_format == "json" else line for line in said.err.splitlines()]
    ends = [f"the log file {small_disk}/bakery.log cannot be written: No space left on device", "first", "second"]
    ends += ["no flour"] if fails else []
    assert [line.endswith(end) for line, end in zip(told, ends, strict=True)] == [True] * len(ends)


def test_the_folder_may_be_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell would have it, which expands no value in a file or a variable."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PICTURE_FEATURES_LOG__FOLDER", "~/logs")
    assert log_folder(load_settings({}).log) == tmp_path / "logs"
    monkeypatch.setenv("PICTURE_FEATURES_LOG__FOLDER", "~nobody-of-this-name/logs")
    assert log_folder(load_settings({}).log) == Path("~nobody-of-this-name/logs")


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
