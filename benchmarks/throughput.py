"""Pictures per second of a replay, beside the bare loop and beside the notebook shape.

    python -m benchmarks.throughput

Steady state leaves start-up out. Replay and bare loop run side by side, as `benchmarks.support.pairs` has it: what the
replay commits counts, so with all that happens between micro-batches. The notebook uses all cores by itself, so replay
and notebook run in turn: its steady state is the cost of 1,500 more pictures, that of the replay is counted from the
first commit to the last, and each ratio is the median over the rounds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from batch_fit.pipeline import build_pipeline
from benchmarks.support.common import (
    ROUNDS,
    Figure,
    arguments,
    at_least,
    link_pictures,
    print_figures,
    run_program,
    spread,
    steady_rate,
)
from benchmarks.support.counted import PICTURES
from benchmarks.support.pairs import compare, enough_pictures, noting, stream
from conf.loading import load_settings
from conf.spark.session import start_session
from tests.support.models import random_projection
from tests.support.samples import KINDS, draw, write_samples
from tests.support.scratch import COMPONENTS, new_place
from tests.support.streams import Place

_PICTURES = 2000
_FEW_PICTURES = 500
_STEADY_PICTURES = 6000  # several micro-batches of the default size
_FRAMES = 20


@dataclass(frozen=True)
class _Round:
    """Pictures per second, and seconds of whole processes."""

    replay_rate: float
    replay_seconds: float
    notebook_few_seconds: float
    notebook_seconds: float

    @property
    def notebook_rate(self) -> float:
        return (_PICTURES - _FEW_PICTURES) / (self.notebook_seconds - self.notebook_few_seconds)


def measure() -> Iterator[Figure]:
    """Small pictures beside both, then camera frames beside the bare loop."""
    with new_place() as place:
        pictures = write_samples(place.root / "pictures", _PICTURES, broken=0).pictures
        yield from _beside_bare_loop(pictures, "100x100", target=0.95)
        yield from _beside_notebook(pictures, place)
        yield from _beside_bare_loop(_write_frames(place.root / "frames"), "1080p")


def _beside_bare_loop(pictures: Sequence[Path], what: str, target: float | None = None) -> Iterator[Figure]:
    with new_place() as place, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        link_pictures(place.source, pictures, enough_pictures())
        link_pictures(Path(folder, PICTURES), pictures, len(pictures))
        bare = noting("bare loop", Path(folder), "bare")
        yield from compare(stream("replay", place), bare).figures(what, target)


def _beside_notebook(pictures: Sequence[Path], place: Place) -> Iterator[Figure]:
    folder, few, pipeline = place.root / "pictures", place.root / "few", place.root / "pipeline"
    link_pictures(few, pictures, _FEW_PICTURES)
    _save_pipeline(pipeline)
    rounds = [
        _Round(
            _replay_rate(pictures, _STEADY_PICTURES),
            _replay_seconds(pictures, _PICTURES),
            _notebook_seconds(few, pipeline),
            _notebook_seconds(folder, pipeline),
        )
        for _ in range(ROUNDS)
    ]
    yield Figure("replay, 100x100, steady state", spread([one.replay_rate for one in rounds], ".0f", "/s"))
    yield Figure("notebook, 100x100, steady state", spread([one.notebook_rate for one in rounds], ".0f", "/s"))
    yield Figure(f"replay of {_PICTURES:,}, whole process", spread([one.replay_seconds for one in rounds], ".1f", " s"))
    yield Figure(
        f"notebook on {_PICTURES:,}, whole process", spread([one.notebook_seconds for one in rounds], ".1f", " s")
    )
    for what, ratios, target in (
        ("steady state", [one.replay_rate / one.notebook_rate for one in rounds], 3.4),
        ("whole process", [one.notebook_seconds / one.replay_seconds for one in rounds], 3),
    ):
        yield at_least(f"replay over notebook, {what}", ratios, target)


def _write_frames(folder: Path) -> list[Path]:
    """JPEGs of 1920x1080, cut from square samples."""
    folder.mkdir()
    frames = []
    for number, kind in zip(range(_FRAMES), [*KINDS.values()] * _FRAMES, strict=False):
        frames.append(folder / f"{number}.jpg")
        square = draw(kind, np.random.default_rng(number), 1920)
        Image.fromarray(square[420:1500]).save(frames[-1], quality=90)
    return frames


def _save_pipeline(folder: Path) -> None:
    spark = start_session("benchmark", load_settings({}), {})
    build_pipeline(spark, random_projection(COMPONENTS, seed=0)).save(str(folder))
    spark.stop()


def _replay_rate(pictures: Sequence[Path], count: int) -> float:
    """Pictures per second after the first micro-batch."""
    with new_place() as place:
        link_pictures(place.source, pictures, count)
        run_program("streaming", arguments(place, "replay"))
        return steady_rate(place)


def _replay_seconds(pictures: Sequence[Path], count: int) -> float:
    with new_place() as place:
        link_pictures(place.source, pictures, count)
        return run_program("streaming", arguments(place, "replay"))


def _notebook_seconds(pictures: Path, pipeline: Path) -> float:
    with new_place() as place:
        return run_program("benchmarks.support.notebook", [str(pictures), str(pipeline), str(place.output)])


if __name__ == "__main__":
    print_figures(measure())
