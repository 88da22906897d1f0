"""The side of a backbone: read from its flatbuffer, and given to the decoder."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from conf.errors import BundleError
from conf.loading import load_settings
from conf.settings import Side
from streaming.features.backbone import SIDES, BackboneRunner, backbone_id
from streaming.features.featurizer import Recipe
from streaming.features.imaging import decode
from streaming.features.schema import PICTURES
from streaming.features.workers import featurize_with
from tests.support.backbones import at_side
from tests.support.models import random_projection
from tests.support.pictures import LIMITS, encoded, fruit, plain


class _Sent:
    """A recipe as a worker has it."""

    def __init__(self, recipe: Recipe) -> None:
        self.value = recipe


def test_a_worker_goes_from_model_to_model_of_whatever_side(backbone: bytes, tmp_path: Path) -> None:
    """As when a model of 160 pixels is promoted while a stream runs, and rolled back.

    Each picture is decoded at its backbone's side: this one, of 700 pixels, at reduced scale for 160 only.
    """
    data = encoded(fruit(700), "JPEG")
    path = tmp_path / "large.jpg"
    path.write_bytes(data)
    batch = pa.RecordBatch.from_pylist(
        [{"path": str(path), "length": len(data), "modification_time": datetime.now(UTC)}], schema=PICTURES
    )
    small, projection = at_side(backbone, 160), random_projection(4, 0)
    for flatbuffer, side in ((backbone, 224), (small, 160), (backbone, 224)):
        recipe = Recipe.of(flatbuffer, projection, load_settings({"stream.embeddings": "keep"}))
        [outcomes] = featurize_with(_Sent(recipe), lambda: False)([batch])
        [row] = outcomes.to_pylist()
        expected = BackboneRunner(backbone, side).run(decode(data, LIMITS, side).pixels)
        assert row["reason"] is None
        assert row["embedding"] == expected.tobytes()
        assert row["features"] == projection.apply(expected)[0].tolist()
        assert (row["width"], row["height"]) == (700, 700)


@pytest.mark.parametrize("side", SIDES)
def test_the_same_weights_at_another_side_are_another_backbone(backbone: bytes, side: int) -> None:
    """Run at that side, a flatbuffer of 224 gives what that one gives, to the bit."""
    resized = at_side(backbone, side)
    runner = BackboneRunner(resized)
    assert runner.side == side
    assert (backbone_id(resized) == backbone_id(at_side(backbone, 224))) == (side == 224)
    pixels = np.random.default_rng(0).uniform(-1, 1, (side, side, 3)).astype(np.float32)
    assert np.array_equal(BackboneRunner(backbone, side).run(pixels), runner.run(pixels))


def test_a_backbone_of_any_other_side_is_refused(backbone: bytes) -> None:
    with pytest.raises(BundleError, match=r"\(1, 128, 128, 3\).* not pictures with a side of 224, 192, 160 to 1280"):
        BackboneRunner(at_side(backbone, 128))
    assert set(get_args(get_args(Side)[0])) == set(SIDES)  # those that a fit can be asked for


@pytest.mark.parametrize("side", SIDES)
def test_a_jpeg_is_decoded_at_reduced_scale_from_four_times_the_side_on(side: int) -> None:
    """As docs/adr/0001-jpeg-draft.md has decided for 224; never to less than twice the side."""
    size = 4 * side
    full, large = (encoded(fruit(pixels), "JPEG") for pixels in (size - 1, size))
    assert np.array_equal(decode(full, LIMITS, side).pixels, plain(full, side))
    image = Image.open(io.BytesIO(large))
    image.draft(None, (2 * side, 2 * side))
    assert image.size == (2 * side, 2 * side)
    assert np.array_equal(decode(large, LIMITS, side).pixels, plain(encoded(image, "PNG"), side))
    assert not np.array_equal(decode(large, LIMITS, side).pixels, plain(large, side))
