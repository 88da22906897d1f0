"""What people, cameras and machines get wrong: each ends in one line or one row, and loses nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batch_fit.__main__ import main as fit
from streaming.__main__ import main as stream
from streaming.features.reasons import Reason
from streaming.lease.holder import read_holder
from streaming.output.requests import create_request
from streaming.storage.folder import StoredPicture
from streaming.storage.locations import open_folder
from tests.support.data import shared_data
from tests.support.oddities import ODDITIES
from tests.support.streams import PROJECT, Place


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr, which is one line; log lines, of an earlier stage, come before it."""
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, lines
    assert lines[-1] == errors[0]
    return errors[0]


def test_every_odd_file_is_one_row_beside_good_pictures(place: Place, pictures: list[Path]) -> None:
    """66 hostile or unusual files, each in features with its size or in quarantine with the right reason."""
    good = place.put(*pictures[:20])
    shutil.copytree(shared_data() / "oddities", place.source / "odd")
    assert stream(place.arguments("replay", "--max-pictures", "30")) == 0
    odd = {str(place.source / "odd" / name): outcome for name, outcome in ODDITIES.items()}
    assert place.counted() == dict.fromkeys([*good, *odd], 1)
    sizes = {row["path"]: (row["width"], row["height"]) for row in place.rows("features").to_pylist()}
    reasons = {row["path"]: Reason(row["reason"]) for row in place.rows("quarantine").to_pylist()}
    assert {path: sizes.get(path) or reasons[path] for path in odd} == odd
    assert all(row["detail"] and len(row["sha256"]) == 64 for row in place.rows("quarantine").to_pylist())


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (lambda place: shutil.rmtree(place.source), 3, "there is no such folder; check --input"),
        (lambda place: (place.source.rmdir(), place.source.write_bytes(b"")), 3, "this is a file"),
        (lambda place: None, 3, "there are no pictures in this folder; check --input"),
        (lambda place: shutil.rmtree(place.models), 4, "no model in"),
        (lambda place: (place.models / "CURRENT").write_text("{"), 4, "CURRENT cannot be read"),
        (lambda place: place.output.write_bytes(b""), 6, "out"),
        (lambda place: (place.root / "in").rename(place.root / "out"), 3, "there is no such folder"),
    ],
    ids=["no input", "input is a file", "empty input", "no model", "broken CURRENT", "output is a file", "moved input"],
)
def test_a_wrong_place_is_one_line(
    place: Place, capsys: pytest.CaptureFixture[str], change: Callable[[Place], object], code: int, told: str
) -> None:
    """It says which place, and what to do."""
    change(place)
    assert stream(place.arguments("replay")) == code
    line = _one_line(capsys)
    assert told in line
    assert str(place.root) in line


@pytest.mark.parametrize("inside", ["models", "output", "checkpoint"])
def test_nothing_of_ours_may_lie_inside_the_input(
    place: Place, capsys: pytest.CaptureFixture[str], inside: str
) -> None:
    """It would be taken for pictures."""
    assert stream(place.arguments("replay", f"--{inside}", str(place.source / "x"))) == 2
    assert f"{inside}: {place.source}/x lies inside the input" in _one_line(capsys)


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_a_checkpoint_on_s3_is_refused(place: Place, capsys: pytest.CaptureFixture[str], scheme: str) -> None:
    """It is worth nothing, and each of its requests is waited for."""
    assert stream(place.arguments("replay", "--checkpoint", f"{scheme}://pictures/checkpoint")) == 2
    assert "checkpoint: s3://pictures/checkpoint is on S3" in _one_line(capsys)


def test_no_room_for_temporary_files_is_one_line(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the folder, and how to choose another."""
    gone = place.root / "gone"
    monkeypatch.setattr("tempfile.tempdir", str(gone))
    folders = ["--output", "s3://pictures/table", "--log-folder", str(place.root / "log")]
    assert stream(place.arguments("replay", *folders)) == 6
    assert f"{gone}: No such file or directory; free some space there, or set TMPDIR" in _one_line(capsys)


def test_temporary_files_inside_the_input_are_called_so(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an output on S3 the checkpoint is one of them, and the user has not named it."""
    monkeypatch.setattr("tempfile.tempdir", str(place.source))
    folders = ["--output", "s3://pictures/table", "--log-folder", str(place.root / "log")]
    assert stream(place.arguments("replay", *folders)) == 2
    assert f"TMPDIR: {place.source}/picture-features-" in _one_line(capsys)


def test_a_fit_refuses_places_inside_its_input(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """As does the stream."""
    places = ["--input", str(place.source), "--models", str(place.source / "models")]
    assert fit(["fit", *places, "--log-format", "text"]) == 2
    assert "models: " in _one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run"], "error: input: is missing; give --input URI, or set PICTURE_FEATURES_INPUT"),
        (["run", "--intervall", "5s"], "unrecognized arguments: --intervall 5s; is --interval meant? See python"),
        (["dance"], "invalid choice: 'dance'"),
        (["--debug"], "the following arguments are required: VERB"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    """Exit code 2, as for any wrong setting."""
    monkeypatch.setenv("PICTURE_FEATURES_LOG__FORMAT", "text")
    assert stream(arguments) == 2
    assert told in _one_line(capsys)


@pytest.fixture
def bound_by_permissions() -> list[str]:
    """What makes a command respect permissions where the tests run as root."""
    if os.geteuid() != 0:
        return []
    drop = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"]
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("this test runs as root and needs setpriv")
        pytest.skip("this test runs as root and needs setpriv")
    return prefix


def _run_bound(prefix: list[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "streaming", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_what_may_not_be_read_is_a_row_or_a_line_of_the_log(
    place: Place, pictures: list[Path], bound_by_permissions: list[str]
) -> None:
    """A picture becomes a row in quarantine, a folder a warning; both are taken up when they can be read."""
    paths = place.put(*pictures[:5])
    hidden = place.put(*pictures[5:8], folder="hidden")
    Path(paths[0]).chmod(0)
    (place.source / "hidden").chmod(0)
    ran = _run_bound(bound_by_permissions, place.arguments("replay"))
    assert ran.returncode == 0, ran.stderr
    assert f"left out: '{place.source}/hidden' cannot be read: Permission denied" in ran.stderr
    [row] = place.rows("quarantine").to_pylist()
    assert (row["path"], row["reason"], row["sha256"]) == (paths[0], "denied", None)
    (place.source / "hidden").chmod(0o755)
    assert stream(place.arguments("replay")) == 0
    assert place.counted() == dict.fromkeys([*paths, *hidden], 1)


def test_a_file_that_cannot_be_read_is_a_row_until_it_can(place: Place, pictures: list[Path]) -> None:
    """A bad sector (EIO), and a link that leads to itself since it was listed; the next manifest gets its rows too."""
    good = place.put(*pictures[:8])
    bad = [place.source / "apple" / name for name in ("a bad sector.jpg", "loop.jpg")]
    bad[0].symlink_to("/proc/self/mem")
    bad[1].symlink_to(bad[1])
    create_request(open_folder(str(place.output)), [StoredPicture(str(bad[1]), 7, datetime(2026, 1, 31, tzinfo=UTC))])
    assert stream(place.arguments("replay", "--max-pictures", "4")) == 0
    assert place.committed() > 2
    assert {row["path"]: row["detail"].partition(": ")[2] for row in place.rows("quarantine").to_pylist()} == {
        str(bad[0]): "EIO: Input/output error",
        str(bad[1]): "ELOOP: Too many levels of symbolic links",
    }
    assert {*place.rows("quarantine").column("reason").to_pylist()} == {"unreadable"}
    bad[0].unlink()
    shutil.copy(pictures[8], bad[0])
    retry = ["quarantine", "retry", "--output", str(place.output), "--master", "local[2,4]", "--reason", "unreadable"]
    assert stream(retry) == 0
    assert stream(place.arguments("replay")) == 0
    assert place.counted() == dict.fromkeys([*good, *map(str, bad)], 1)
    assert place.rows("quarantine").column("path").to_pylist() == [str(bad[1])]


def test_a_place_where_nothing_can_be_read_is_one_line(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """It names a picture, and quarantines none."""
    (place.source / "apple").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (place.source / "apple" / name).symlink_to("/proc/self/mem")
    assert stream(place.arguments("replay")) == 6
    line = _one_line(capsys)
    assert f"{place.source}/apple/" in line
    assert ".jpg: cannot be read: EIO: Input/output error; no other picture can be read, either" in line
    assert place.committed() == 0
    holder, _ = read_holder(open_folder(str(place.output)))
    assert holder  # status says the same, not what Spark wraps it in
    assert f"error: {holder.failure}" in line


@pytest.mark.parametrize("which", ["source", "output"])
def test_a_folder_that_may_not_be_used_is_one_line(
    place: Place, pictures: list[Path], bound_by_permissions: list[str], which: str
) -> None:
    """It says which access is missing, and leaves nothing behind."""
    place.put(*pictures[:2])
    place.output.mkdir()
    locked: Path = getattr(place, which)
    locked.chmod(0)
    ran = _run_bound(bound_by_permissions, place.arguments("replay"))
    locked.chmod(0o755)
    assert ran.returncode == (3 if which == "source" else 6)
    [line] = ran.stderr.splitlines()
    assert str(locked) in line
    assert "grant" in line
    assert list(place.output.iterdir()) == []


def test_a_failing_job_is_one_line_and_the_log_has_the_rest(
    place: Place, pictures: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's and Spark's traces are in the file that the line names, not on the terminal."""

    def failing(*_: object) -> Callable[[object], object]:
        def fail(_batches: object) -> object:
            raise ZeroDivisionError("a defect")

        return fail

    monkeypatch.setattr("streaming.engine.executors.featurize_with", failing)
    place.put(*pictures[:2])
    assert stream(place.arguments("replay")) == 1
    line = _one_line(capsys)
    assert "ZeroDivisionError: a defect" in line
    log = Path(line.rpartition("(details: ")[2].removesuffix(")"))
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_a_backbone_that_does_not_run_is_refused_at_the_start(
    place: Place, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Although its bundle is sealed."""
    place.put(*pictures[:2])
    place.promote_another(1, backbone=b"not a flatbuffer")
    assert stream(place.arguments("replay")) == 4
    assert "the backbone is not a LiteRT model" in _one_line(capsys)
