"""This job with Ray Data, as its documentation does batch inference: binary files, an actor with its model, Parquet.

    python -m benchmarks.support.ray_peer FOLDER

https://docs.ray.io/en/latest/data/batch_inference.html
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from benchmarks.support.counted import PICTURES, ROWS, CountedFeatures

_BATCH = 64
_CPUS = 2  # one for the actor, and one for the tasks that read and write: with a single one they would never start


class Featurizer:
    """Loads the model once per actor."""

    def __init__(self, folder: str) -> None:
        self._features = CountedFeatures(folder)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Featurize a batch."""
        return {"path": batch["path"], "features": np.stack([*map(self._features, batch["bytes"])])}


def main() -> None:
    """Featurize a folder."""
    [folder] = sys.argv[1:]
    ray.init(num_cpus=_CPUS, include_dashboard=False, _temp_dir=str(Path(folder, "tmp")))
    pictures = ray.data.read_binary_files(str(Path(folder, PICTURES)), include_paths=True)
    featurized = pictures.map_batches(
        Featurizer, fn_constructor_args=[folder], batch_size=_BATCH, compute=ray.data.ActorPoolStrategy(size=1)
    )
    featurized.write_parquet(str(Path(folder, ROWS)))


if __name__ == "__main__":
    main()
