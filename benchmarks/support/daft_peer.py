"""This job with Daft, as its documentation does embeddings: list, download, a class with its model, Parquet.

    python -m benchmarks.support.daft_peer FOLDER

https://docs.daft.ai/en/stable/custom-code/cls/
"""

from __future__ import annotations

import sys
from pathlib import Path

import daft
from daft.functions import download

from benchmarks.support.counted import PICTURES, ROWS, CountedFeatures

_BATCH = 64
_LIST = daft.DataType.list(daft.DataType.float32())


@daft.cls(max_concurrency=1)
class Featurizer:
    """Loads the model once per process."""

    def __init__(self, folder: str) -> None:
        self._features = CountedFeatures(folder)

    @daft.method.batch(return_dtype=_LIST, batch_size=_BATCH)  # type: ignore[untyped-decorator] # Daft is not in .venv
    def features(self, contents: daft.Series) -> list[object]:
        """Featurize a batch."""
        return [self._features(content) for content in contents.to_pylist()]


def main() -> None:
    """Featurize a folder."""
    [folder] = sys.argv[1:]
    pictures = daft.from_glob_path(f"{Path(folder, PICTURES)}/*.jpg").with_column("content", download(daft.col("path")))
    featurized = pictures.with_column("features", Featurizer(folder).features(daft.col("content")))
    featurized.select("path", "features").write_parquet(str(Path(folder, ROWS)))


if __name__ == "__main__":
    main()
