"""The work on one picture as the stream does it, without the stream: decode, infer, project; and a note of it.

The bare loop and the peers share it. It imports nothing that is not in the peers' environment.
"""

from __future__ import annotations

import time
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streaming.features.backbone import BackboneRunner
from streaming.features.imaging import Limits, decode
from streaming.features.projection import Projection

BACKBONE = "backbone.tflite"
PROJECTION = "projection.npz"
PICTURES = "pictures"
ROWS = "rows"
_NOTED = "noted.txt"
_PER_NOTE = 25
_LIMITS = Limits(max_bytes=2**30, max_pixels=2**30)


class CountedFeatures:
    """Features of pictures. Each 25 pictures it notes in the folder that they are done, with the time.

    Args:
        folder: has the model: `BACKBONE` and `PROJECTION`.
    """

    def __init__(self, folder: str) -> None:
        self._backbone = BackboneRunner(Path(folder, BACKBONE).read_bytes())
        self._pixels = np.empty((self._backbone.side, self._backbone.side, 3), np.float32)
        self._projection = Projection.from_bytes(Path(folder, PROJECTION).read_bytes())
        self._notes = Path(folder, _NOTED)
        self._done = 0

    def __call__(self, content: bytes) -> NDArray[np.float32]:
        """The components of one picture."""
        picture = decode(content, _LIMITS, self._backbone.side, self._pixels)
        features, _ = self._projection.apply(self._backbone.run(picture.pixels))
        self._done += 1
        if self._done % _PER_NOTE == 0:
            with self._notes.open("a") as notes:  # of several processes at once, if there are several
                notes.write(f"{time.time()} {_PER_NOTE}\n")
        return features


def read_noted(folder: Path) -> list[tuple[float, int]]:
    """The moments that were noted in `folder`, and how many pictures were done until then."""
    notes = Path(folder, _NOTED)
    lines = sorted(line.split() for line in notes.read_text().splitlines()) if notes.exists() else []
    sums = accumulate(int(count) for _, count in lines)
    return [(float(at), done) for (at, _), done in zip(lines, sums, strict=True)]
