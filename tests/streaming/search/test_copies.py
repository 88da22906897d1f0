"""The default distance of one scene: copies of real photographs are found, and different objects stay apart.

docs/insight.md tells the experiment in full.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from batch_fit.backbone import load_backbone
from batch_fit.pca import fit_pca
from batch_fit.statistics import Statistics
from streaming.features.backbone import BackboneRunner
from streaming.features.imaging import decode
from streaming.search.choices import WITHIN
from streaming.search.groups import Groups
from streaming.search.scenes import join_near
from streaming.search.vectors import Vectors
from tests.support.data import shared_data
from tests.support.pictures import LIMITS, encoded
from tests.support.waiting import locked

_TAKEN_OF = 2  # one photograph of so many
_COPIED_OF = 6  # one of so many that were taken


def _cropped(image: Image.Image) -> Image.Image:
    return image.crop((1, 1, image.width - 1, image.height - 1))


def _resized(image: Image.Image, percent: int) -> Image.Image:
    return image.resize((image.width * percent // 100, image.height * percent // 100), Image.Resampling.BICUBIC)


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "quality 90": lambda image: encoded(image, "JPEG", quality=90),
    "quality 80": lambda image: encoded(image, "JPEG", quality=80),
    "lossless": lambda image: encoded(image, "PNG"),
    "150 %": lambda image: encoded(_resized(image, 150), "JPEG", quality=90),
    "200 %": lambda image: encoded(_resized(image, 200), "JPEG", quality=90),
    "cropped": lambda image: encoded(_cropped(image), "JPEG", quality=95),
}
"""Ways to copy a photograph of 100 x 100 pixels."""


@pytest.fixture(scope="module")
def imagenet(all_workers: Path, tensorflow: None) -> bytes:
    with locked(all_workers / "imagenet.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(shared_data() / "keras_home"))
        patch.setenv("XDG_CACHE_HOME", str(all_workers / "cache"))
        return load_backbone("imagenet").flatbuffer


def test_copies_of_photographs_are_found_and_different_objects_stay_apart(imagenet: bytes) -> None:
    """95 % of the copies are in the group of their original; 1 % of the originals in that of another object."""
    backbone = BackboneRunner(imagenet)

    def features_of(data: bytes) -> NDArray[np.float32]:
        return backbone.run(decode(data, LIMITS).pixels)

    files = sorted((shared_data() / "fruits360").glob("*/*.jpg"))[::_TAKEN_OF]
    originals = np.array([features_of(file.read_bytes()) for file in files])
    copied = np.repeat(np.arange(0, len(files), _COPIED_OF), len(COPIES))
    images = (Image.open(io.BytesIO(files[number].read_bytes())) for number in copied[:: len(COPIES)])
    copies = np.array([features_of(copy(image)) for image in images for copy in COPIES.values()])
    projection = fit_pca(Statistics.of(originals), None, 0.9)
    projected = np.array([projection.apply(row)[0] for row in np.concatenate([originals, copies])])
    groups, everyone = Groups(len(projected)), np.arange(len(projected))
    with Vectors() as vectors:
        vectors.add(projected, everyone)
        vectors.finish()
        join_near(vectors, everyone, WITHIN, groups)
    roots = groups.roots(everyone)
    found = (roots[len(files) :] == roots[copied]).reshape(-1, len(COPIES))
    assert found.mean() >= 0.95, dict(zip(COPIES, found.mean(axis=0).tolist(), strict=True))
    objects = np.array([file.parent.name for file in files])
    wrong = [group for group in groups.several() if len({*objects[group[group < len(files)]]}) > 1]
    assert sum(int((group < len(files)).sum()) for group in wrong) <= 0.01 * len(files)
