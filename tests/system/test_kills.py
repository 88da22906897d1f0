"""The driver is killed at every point where it writes; `make soak` does the same many times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.buckets import Bucket, new_bucket
from tests.support.streams import Place
from tests.system.soak import KILL_POINTS, LOCAL_KILL_POINTS, KillPoint, polled, soak_bucket, soak_place

pytestmark = pytest.mark.usefixtures("programs")

_ON_S3 = (
    "between features and quarantine file",
    "after the record of known pictures",
    "before the old epoch is deleted",
)


_POINTS = (*KILL_POINTS, *LOCAL_KILL_POINTS)


@pytest.mark.parametrize("points", [_POINTS[:9], _POINTS[9:]], ids=["tables", "records"])
def test_a_driver_killed_wherever_it_writes_loses_and_repeats_nothing(
    place: Place, pictures: list[Path], broken: list[Path], points: Sequence[KillPoint]
) -> None:
    """One kill after the other, each in the recovery from the last; no reader ever sees a file that is not whole."""
    soak = soak_place(place, pictures, broken)
    with polled(place.output) as reads:
        for point in points:
            soak.kill_at(point)
        soak.finish()
    assert reads["rows"] > 0


@pytest.fixture
def bucket(versitygw_address: str, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket with a model, on a real store."""
    with new_bucket(versitygw_address, monkeypatch) as made:
        made.put_tree(fitted, "models")
        yield made


def test_a_driver_killed_on_s3_loses_and_repeats_nothing(
    bucket: Bucket, pictures: list[Path], broken: list[Path]
) -> None:
    """The points where two writes belong together."""
    soak = soak_bucket(bucket, pictures, broken)
    for point in KILL_POINTS:
        if point.name in _ON_S3:
            soak.kill_at(point)
    soak.finish()
