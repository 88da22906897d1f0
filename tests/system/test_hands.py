"""What people do by hand to an output: delete parts of it, stop its writer for a while, restore copies."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest

from streaming.__main__ import main
from tests.support.streams import Place, run, start

pytestmark = pytest.mark.usefixtures("programs")

Wait = Callable[..., None]


def test_deleted_features_are_made_again(place: Place, pictures: list[Path], broken: list[Path]) -> None:
    """Also of the latest manifest, which Spark knows for done; what was quarantined with them counts once."""
    paths = place.put(*pictures[:12]) + place.put(*broken, folder="broken")
    assert main(place.arguments("replay", "--max-pictures", "8")) == 0
    files = sorted((place.output / "features").glob("*/2*"))
    assert len(files) == 2
    files[1].unlink()
    assert main(place.arguments("replay")) == 0
    assert place.counted() == dict.fromkeys(paths, 1)
    files[1].unlink()
    paths += place.put(*pictures[12:15])
    assert main(place.arguments("replay")) == 0
    assert place.counted() == dict.fromkeys(paths, 1)


def test_deleted_manifests_whose_rows_are_there_are_named(
    place: Place, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Their pictures would be featurized twice; with their rows deleted as well, they are once."""
    paths = place.put(*pictures[:10])
    assert main(place.arguments("replay", "--max-pictures", "5")) == 0
    [first, _] = place.logged()
    first.unlink()
    assert main(place.arguments("replay")) == 5
    said = capsys.readouterr().err
    assert f"{place.output}/_manifests lacks " in said
    assert "whose rows are in the tables" in said
    assert first.stem in said
    for file in place.output.glob(f"*/*/{first.stem}.parquet"):
        file.unlink()
    assert main(place.arguments("replay")) == 0
    assert place.counted() == dict.fromkeys(paths, 1)
    assert place.embedded() == sorted(paths)


def _pause(pid: int, output: Path, wait_for: Wait) -> None:
    """Pause a process where it does not hold the lock of the output's file system, which others would wait for."""

    def paused() -> bool:
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        with open(output / "_tmp" / "lock", "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.kill(pid, signal.SIGCONT)
                return False
        return True

    wait_for(paused)


def test_a_holder_that_was_paused_past_its_lease_repeats_nothing_and_stops(
    place: Place, pictures: list[Path], wait_for: Wait
) -> None:
    """Another takes over when the lease has run out; the first wakes up in the middle of its work."""
    paths = place.put(*pictures[:30])
    more = ("--max-pictures", "10", "--lease", "3s")
    paused = start("streaming", place.arguments("run", "--interval", "100ms", *more))
    wait_for(lambda: len(place.logged()) == 3)
    _pause(paused.pid, place.output, wait_for)
    try:
        wait_for(lambda: run("streaming", place.arguments("replay", *more)).returncode == 0)
    finally:
        os.kill(paused.pid, signal.SIGCONT)
    said, _ = paused.communicate(timeout=180)
    assert paused.returncode == 5, said
    assert "lost the right to write here" in said
    assert place.counted() == dict.fromkeys(paths, 1)


def test_a_clock_that_was_set_back_loses_and_repeats_nothing(
    place: Place, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifests of yesterday come after those of today, before and after folding."""
    paths = place.put(*pictures[:6])
    more = ("--max-pictures", "2", "--epoch-manifests", "2")
    assert main(place.arguments("replay", *more)) == 0

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) - timedelta(days=1)

    for number, clock in enumerate((Yesterday, Yesterday, datetime)):
        monkeypatch.setattr("streaming.output.manifest_log.datetime", clock)
        paths += place.put(*pictures[6 + 5 * number : 11 + 5 * number])
        assert main(place.arguments("replay", *more)) == 0
        assert place.counted() == dict.fromkeys(paths, 1)


def test_a_read_only_output_is_one_line(place: Place, pictures: list[Path], tmp_path: Path) -> None:
    """Nothing is begun."""
    place.put(*pictures[:2])
    read_only = Path("/proc/picture-features")  # not even root may write there
    done = run("streaming", [*place.arguments("replay"), "--output", str(read_only)])
    assert done.returncode == 6
    assert done.stdout.count("\n") == 1, done.stdout
