"""Runs the backbone at serving time: a LiteRT flatbuffer that turns one picture into 1280 features."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from conf.errors import BundleError
from streaming.features.schema import FEATURE_COUNT

SIDES = (224, 192, 160)
"""The widths and heights in pixels that a backbone's input may have. Each makes it another backbone."""

ID_LENGTH = 16


def backbone_id(flatbuffer: bytes) -> str:
    """The short name of a backbone: the first 16 digits of its SHA-256, which a bundle's manifest has in full."""
    return hashlib.sha256(flatbuffer).hexdigest()[:ID_LENGTH]


class BackboneRunner:
    """One interpreter, one thread, one picture at a time.

    Batching brings nothing on a CPU, and a second thread only takes a neighbouring worker's core. Not thread-safe.

    Attributes:
        side: width and height of its pictures in pixels.

    Args:
        flatbuffer: LiteRT model.
        side: run the same weights at this side; None for that of the flatbuffer. Features and speed are those of a
            flatbuffer that was converted at this side.

    Raises:
        BundleError: the flatbuffer is not a MobileNetV2 without top, (1, side, side, 3) to (1, 1280) float32, with one
            of the `SIDES`.
    """

    def __init__(self, flatbuffer: bytes, side: int | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - not needed on the driver

        with _quiet():
            try:
                self._interpreter = Interpreter(model_content=flatbuffer, num_threads=1)
                if side:
                    self._interpreter.resize_tensor_input(
                        self._interpreter.get_input_details()[0]["index"], (1, side, side, 3)
                    )
                self._interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise BundleError(f"the backbone is not a LiteRT model: {error}") from error
        [source], [target] = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        shapes = tuple(source["shape"].tolist()), tuple(target["shape"].tolist())
        if shapes not in [((1, one, one, 3), (1, FEATURE_COUNT)) for one in SIDES]:
            sides = ", ".join(map(str, SIDES))
            raise BundleError(
                f"the backbone maps {shapes[0]} to {shapes[1]}, not pictures with a side of {sides} to 1280 features"
            )
        self.side: int = shapes[0][1]
        self._input, self._output = source["index"], target["index"]

    def run(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The features of one picture.

        Args:
            pixels: (side, side, 3) float32 in [-1, 1].

        Returns:
            (1280,) float32, a copy that the next call does not overwrite.
        """
        self._interpreter.set_tensor(self._input, pixels[np.newaxis])
        self._interpreter.invoke()
        features: NDArray[np.float32] = self._interpreter.get_tensor(self._output)[0]
        return features


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence LiteRT, which writes a greeting to stderr from C++ in each worker process."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
