"""Local pictures that change between the look and the read: they are looked at again rather than condemned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from conf.loading import load_settings
from streaming.features.featurizer import Featurizer, Recipe
from streaming.features.schema import PICTURES, as_table
from streaming.storage.locations import list_pictures


@pytest.fixture
def featurize(backbone: bytes) -> Callable[..., list[dict[str, Any]]]:
    """Featurizes pictures as they were listed, with settings."""

    def featurize(listed: pa.RecordBatch, **settings: str) -> list[dict[str, Any]]:
        given = {key.replace("__", "."): value for key, value in settings.items()}
        rows: list[dict[str, Any]] = Featurizer(Recipe.of(backbone, None, load_settings(given)))(listed).to_pylist()
        return rows

    return featurize


def _listed(source: Path) -> pa.RecordBatch:
    [batch] = as_table(list_pictures(str(source), print)).cast(PICTURES).combine_chunks().to_batches()
    return batch


def _at_each_pause(monkeypatch: pytest.MonkeyPatch, write: Callable[[int], object]) -> list[float]:
    """Somebody writes while a worker waits, by a clock of its own; returns how long it waited, as it goes."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        write(len(pauses))

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: sum(pauses))
    monkeypatch.setattr("streaming.features.featurizer.time", clock)  # not those of other threads of this process
    return pauses


def test_what_was_read_half_is_read_again_when_it_is_whole(
    source: Path,
    pictures: list[Path],
    featurize: Callable[..., list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that changed wait together; what was damaged all along waits for nobody."""
    whole = [picture.read_bytes() for picture in pictures[:4]]
    names = ["0 whole.jpg", "1 half.jpg", "2 damaged.jpg", "3 empty.jpg"]
    for name, data in zip(names, [whole[0], whole[1][:500], whole[2][:500], b""], strict=True):
        (source / name).write_bytes(data)
    listed = _listed(source)
    (source / names[1]).write_bytes(whole[1][:600])
    (source / names[3]).write_bytes(whole[3][:10])

    def write(pause: int) -> None:
        for place in (1, 3):
            if pause <= 2:
                (source / names[place]).write_bytes(whole[place][: 600 * pause] if pause < 2 else whole[place])

    pauses = _at_each_pause(monkeypatch, write)
    rows = featurize(listed, stream__settle="2s")
    assert [row["reason"] for row in rows] == [None, None, "corrupt", None]
    assert [row["length"] for row in rows] == [len(whole[0]), len(whole[1]), 500, len(whole[3])]
    assert pauses == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(("settle", "most"), [("10ms", 0.01), ("0s", 0), ("1h", 0.3)])
def test_what_never_rests_can_be_retried(
    source: Path,
    pictures: list[Path],
    featurize: Callable[..., list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    settle: str,
    most: float,
) -> None:
    """A worker waits no longer for it than a picture may take."""
    half = pictures[0].read_bytes()[:500]
    (source / "a.jpg").write_bytes(half)
    listed = _listed(source)
    (source / "a.jpg").write_bytes(half + b"x")
    pauses = _at_each_pause(monkeypatch, lambda pause: (source / "a.jpg").write_bytes(half + b"x" * pause + b"x"))
    # By the kernel's clock, a decoder that has to wait for a core would end this process.
    monkeypatch.setattr("streaming.features.featurizer._deadline", lambda seconds: nullcontext())
    [row] = featurize(listed, stream__settle=settle, imaging__timeout="300ms")
    assert row["reason"] == "being_written"
    assert row["detail"].startswith("it was still being written after 0.3s (")
    assert row["detail"].endswith("); retry it when its writer is done")
    assert len(row["sha256"]) == 64
    assert max(pauses) == most


def test_what_changed_and_is_damaged_all_the_same_is_corrupt(
    source: Path, pictures: list[Path], featurize: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it rests, its bytes decide; one that is gone by then has vanished."""
    half = pictures[0].read_bytes()[:500]
    for name in ("a.jpg", "b.jpg"):
        (source / name).write_bytes(half)
    listed = _listed(source)
    for name in ("a.jpg", "b.jpg"):
        (source / name).write_bytes(half + b"x")
    pauses = _at_each_pause(monkeypatch, lambda pause: (source / "b.jpg").unlink(missing_ok=True))
    assert [row["reason"] for row in featurize(listed)] == ["corrupt", "vanished"]
    assert pauses == [2.0, 2.0]


def test_a_picture_that_changed_and_passes_is_not_waited_for(
    source: Path, pictures: list[Path], featurize: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "a.jpg").write_bytes(b"")
    listed = _listed(source)
    (source / "a.jpg").write_bytes(pictures[0].read_bytes())
    pauses = _at_each_pause(monkeypatch, lambda pause: None)
    assert featurize(listed)[0]["reason"] is None
    assert not pauses
