"""The bare loop: decode, infer, project and nothing else, on pictures that are in memory already.

    python -m benchmarks.support.bare FOLDER

It is the upper bound of this machine's throughput with the application's own parts. As a program it is one process,
which takes the pictures of FOLDER in turn until it is killed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier

import numpy as np

from benchmarks.support.common import CORES
from benchmarks.support.counted import PICTURES, CountedFeatures
from streaming.features.backbone import BackboneRunner
from streaming.features.imaging import Limits, decode
from tests.support.models import random_projection
from tests.support.scratch import COMPONENTS, read_backbone

_WARM_UP = 20
_LIMITS = Limits(max_bytes=2**30, max_pixels=2**30)


def bare_rate(pictures: Sequence[Path], count: int) -> float:
    """Pictures per second of all processes together, over `count` pictures that are in memory already."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the children read it; the application sets it for its workers, too
    backbone, context = read_backbone(), get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(CORES, context) as pool:
        start = manager.Barrier(CORES)
        shares = [pool.submit(_loop, backbone, pictures[core::CORES], count // CORES, start) for core in range(CORES)]
        return sum(share.result() for share in shares)


def _loop(flatbuffer: bytes, pictures: Sequence[Path], count: int, start: Barrier) -> float:
    """Pictures per second of this process."""
    backbone, projection = BackboneRunner(flatbuffer), random_projection(COMPONENTS, seed=0)
    pixels = np.empty((backbone.side, backbone.side, 3), np.float32)
    contents = [picture.read_bytes() for picture in pictures]
    for content in contents[:_WARM_UP]:
        projection.apply(backbone.run(decode(content, _LIMITS, backbone.side, pixels).pixels))
    start.wait()
    started = time.perf_counter()
    for content in islice(cycle(contents), count):
        projection.apply(backbone.run(decode(content, _LIMITS, backbone.side, pixels).pixels))
    return count / (time.perf_counter() - started)


def main() -> None:
    """Take the pictures of a folder, over and over."""
    [folder] = sys.argv[1:]
    features = CountedFeatures(folder)
    for content in cycle([picture.read_bytes() for picture in sorted(Path(folder, PICTURES).iterdir())]):
        features(content)


if __name__ == "__main__":
    main()
