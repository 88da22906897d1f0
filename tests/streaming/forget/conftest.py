"""A place with rows in every kind of file, filled once and restored for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.forgetting import Streamed, Written, fill, restored
from tests.support.models import promote_model
from tests.support.streams import Place


@pytest.fixture(scope="session")
def _written(tmp_path_factory: pytest.TempPathFactory, _samples: tuple[list[Path], list[Path]]) -> Place:
    place = Place(tmp_path_factory.mktemp("written") / "place")
    promote_model(place.models, b"a backbone", k=4, seed=0)
    return fill(place, Written(place), *_samples)


@pytest.fixture(scope="session")
def _streamed(tmp_path_factory: pytest.TempPathFactory, fitted: Path, _samples: tuple[list[Path], list[Path]]) -> Place:
    place = Place(tmp_path_factory.mktemp("streamed") / "place")
    place.source.mkdir(parents=True)
    shutil.copytree(fitted, place.models)
    return fill(place, Streamed(place), *_samples)


@pytest.fixture
def full(_written: Place) -> Place:
    """A place with rows in every kind of file, written as the stream writes them."""
    return restored(_written)


@pytest.fixture
def streamed(_streamed: Place) -> Place:
    """The same, written by the stream itself, which can go on."""
    return restored(_streamed)
