"""What the generator of synthetic pictures promises to the demo and the tests."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from streaming.features.imaging import Limits, Rejected, decode
from tests.support.samples import KINDS, write_samples

LIMITS = Limits(max_bytes=10**6, max_pixels=10**6)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jpg")}


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other seed"
    for folder, seed in ((one, 0), (two, 0), (other, 1)):
        write_samples(folder, pictures=12, broken=4, seed=seed)
    assert contents(one) == contents(two)
    assert not set(contents(one).values()) & {whole for whole in contents(other).values() if len(whole) > 100}


def test_more_pictures_begin_with_the_same_ones(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    write_samples(few, pictures=6, broken=0)
    write_samples(many, pictures=12, broken=0)
    assert contents(few).items() < contents(many).items()


@pytest.mark.parametrize("size", [16, 100, 640])
def test_pictures_decode_and_broken_files_are_rejected_for_the_reason_that_is_stated(tmp_path: Path, size: int) -> None:
    samples = write_samples(tmp_path, pictures=16, classes=len(KINDS), broken=8, size=size)
    assert {path.relative_to(tmp_path).as_posix() for path in [*samples.pictures, *samples.broken]} == set(
        contents(tmp_path)
    )
    assert Counter(path.parent.name for path in samples.pictures) == dict.fromkeys(KINDS, 2)
    for path in samples.pictures:
        picture = decode(path.read_bytes(), LIMITS)
        assert (picture.width, picture.height) == (size, size)
    assert len(samples.broken) == 8
    for path, reason in samples.broken.items():
        with pytest.raises(Rejected) as caught:
            decode(path.read_bytes(), LIMITS)
        assert caught.value.reason is reason


def test_the_command_line_writes_what_it_is_asked_for(tmp_path: Path) -> None:
    options = ["--pictures", "7", "--size", "32", "--broken", "1"]
    command = [sys.executable, "-m", "tests.support.samples", str(tmp_path), *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert ended.stdout == f"7 pictures and 1 broken file in {tmp_path}\n"
    assert len(contents(tmp_path)) == 8
