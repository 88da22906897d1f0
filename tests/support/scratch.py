"""A place in a temporary folder, with a model whose backbone is converted once for all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch_fit.backbone import load_backbone
from tests.support.models import promote_model
from tests.support.streams import Place

COMPONENTS = 100
WEIGHTS = "random:0"  # the speed is that of any other weights
_CACHE = Path(tempfile.gettempdir()) / "picture-features-benchmarks"


@contextmanager
def new_place() -> Iterator[Place]:
    """An empty input, a model of `COMPONENTS` components, and an output to be made, all gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        place = Place(Path(folder))
        place.source.mkdir()
        promote_model(place.models, read_backbone(), COMPONENTS, seed=0)
        yield place


def read_backbone() -> bytes:
    """The flatbuffer of `WEIGHTS`; its conversion takes 10 s, so it is kept in the temporary folder."""
    file = _CACHE / f"{WEIGHTS.replace(':', '-')}.tflite"
    if not file.exists():
        _CACHE.mkdir(exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_bytes(load_backbone(WEIGHTS).flatbuffer)
        part.rename(file)
    return file.read_bytes()
