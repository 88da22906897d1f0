"""The checkpoint and the log: what a hand deletes, restores or mixes up, and what is folded."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streaming.output import manifests
from streaming.storage.folder import StoredPicture
from streaming.storage.locations import open_folder
from tests.support.streams import Place, end, replay, start

pytestmark = pytest.mark.usefixtures("programs")

Wait = Callable[[Callable[[], bool]], None]


def test_a_checkpoint_that_a_power_cut_has_emptied_or_that_was_deleted_loses_and_repeats_nothing(
    place: Place, pictures: list[Path]
) -> None:
    """Manifests and tables say what was done. Spark renames files before they are on the disk, and reads none empty."""
    paths = place.put(*pictures[:30])
    assert replay(place, "--max-pictures", "10") == 0
    for log in ("offsets", "commits", "sources/0"):
        max((place.checkpoint / "000001" / log).glob("[0-9]*")).write_bytes(b"")
    paths += place.put(*pictures[30:40])
    assert replay(place, "--max-pictures", "10") == 0
    assert place.counted() == dict.fromkeys(paths, 1)
    shutil.rmtree(place.checkpoint)
    paths += place.put(*pictures[40:45])
    assert replay(place, "--max-pictures", "10") == 0
    assert place.counted() == dict.fromkeys(paths, 1)


@pytest.mark.parametrize("epoch", [1000, 3])
def test_a_checkpoint_restored_from_an_older_copy_loses_and_repeats_nothing(
    place: Place, pictures: list[Path], tmp_path: Path, epoch: int
) -> None:
    """Also where the manifests that the old copy wants to go on with were folded since."""
    more = ("--max-pictures", "5", "--epoch-manifests", str(epoch))
    paths = place.put(*pictures[:10])
    assert replay(place, *more) == 0
    shutil.copytree(place.checkpoint, tmp_path / "copy")
    for commit in (tmp_path / "copy" / "000001" / "commits").glob("*1*"):
        commit.unlink()  # the copy was made while the second micro-batch was under way
    paths += place.put(*pictures[10:40])
    assert replay(place, *more) == 0
    shutil.rmtree(place.checkpoint)
    shutil.copytree(tmp_path / "copy", place.checkpoint)
    paths += place.put(*pictures[40:45])
    assert replay(place, *more) == 0
    assert place.counted() == dict.fromkeys(paths, 1)


def test_the_checkpoint_of_another_output_is_refused(
    place: Place, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pending work would end up in the wrong tables."""
    place.put(*pictures[:3])
    assert replay(place) == 0
    other = Place(tmp_path / "other")
    shutil.copytree(place.models, other.models)
    other.put(*pictures[:3])
    assert replay(other, "--checkpoint", str(place.checkpoint)) == 5
    assert "is the checkpoint of another output" in capsys.readouterr().err


def test_a_manifest_that_was_deleted_by_hand_is_named_and_its_pictures_are_found_again(
    place: Place, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A micro-batch without rows is a question, never an answer."""
    paths = place.put(*pictures[:5])
    assert replay(place) == 0
    [manifest] = place.logged()
    manifest.unlink()
    for left in (*place.output.glob("features/*/2*"), *place.checkpoint.glob("*/commits/*0*")):
        left.unlink()
    place.put(*pictures[5:6])
    assert replay(place) == 5
    assert f"manifest {manifest.stem} is gone" in capsys.readouterr().err
    shutil.rmtree(place.checkpoint)
    assert replay(place) == 0
    assert place.counted() == dict.fromkeys([*paths, *place.put(*pictures[5:6])], 1)


def test_nothing_grows_with_the_number_of_manifests(place: Place, pictures: list[Path], wait_for: Wait) -> None:
    """Each epoch folds its manifests and begins a fresh checkpoint; folded pictures stay known."""
    paths = place.put(*pictures[:40])
    assert replay(place, "--max-pictures", "4", "--epoch-manifests", "3") == 0
    assert place.committed() == 10
    assert len(place.logged()) < 4
    [epoch] = place.checkpoint.glob("0*")
    assert int(epoch.name) > 2
    assert place.counted() == dict.fromkeys(paths, 1)
    threads = threading.active_count()
    paths += place.put(*pictures[40:60])
    assert replay(place, "--max-pictures", "4", "--epoch-manifests", "3") == 0
    assert place.counted() == dict.fromkeys(paths, 1)
    wait_for(lambda: threading.active_count() <= threads + 1)  # two queries ended; each had a thread for its callbacks


def test_a_driver_that_appends_after_its_lease_repeats_nothing(
    place: Place, pictures: list[Path], wait_for: Wait
) -> None:
    """A manifest of pictures that are known already is withdrawn by the stream that holds the lease."""
    paths = place.put(*pictures[:4])
    process = start("streaming", place.arguments("run", "--interval", "100ms"))
    wait_for(lambda: place.has(paths))
    now = datetime.now(UTC)
    again = [StoredPicture(path, 1, now) for path in paths[2:]]
    late = manifests.append_manifest(open_folder(str(place.output)), again, now)
    wait_for(lambda: late not in [manifest.stem for manifest in place.logged()])
    paths += place.put(*pictures[4:6])
    wait_for(lambda: place.has(paths))
    process.send_signal(signal.SIGTERM)
    said = end(process)
    assert process.returncode == 0, said
    assert place.counted() == dict.fromkeys(paths, 1)
    assert replay(place) == 0
    assert place.counted() == dict.fromkeys(paths, 1)
