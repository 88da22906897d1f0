"""The rows of one model in memory: their features as a matrix, with their paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.plural import plural
from streaming.registry.model import Featurized
from streaming.search.choices import Metric
from streaming.search.nearest import DISTANCES
from streaming.search.scan import matrix, scan
from streaming.search.table import SearchTable, choose_model, no_rows_of

_ROWS_AT_ONCE = 8192  # of 200 features, 13 MB as float64


class Near(NamedTuple):
    """A row that was found.

    Attributes:
        path: of the picture.
        distance: from the vector that was asked for.
    """

    path: str
    distance: float


@dataclass(frozen=True, eq=False, repr=False)
class Matrix:
    """The rows of one model; row i of `features` is of the picture `paths[i]`.

    Attributes:
        table: canonical path of the output or the snapshot.
        model: the version of the model.
        paths: n of them, in the order of the table.
        features: (n, k) float32.
        left_out: the number of rows of other models.
    """

    table: str
    model: str
    paths: Sequence[str]
    features: NDArray[np.float32]
    left_out: int

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        others = f", {plural(self.left_out, 'row')} of other models left out" if self.left_out else ""
        return f"<Matrix of {self.table}: {plural(len(self), 'row')} of model {self.model}{others}>"

    def nearest(
        self, picture: Featurized | NDArray[np.float32], count: int = 10, metric: Metric = "cosine"
    ) -> list[Near]:
        """The rows that are nearest to a picture, nearest first; equally near ones by their paths.

        A picture that is in the table finds itself first.

        Args:
            picture: what `featurize` has given, or a vector of this model's features, (k,) float32.
            count: how many rows.
            metric: `cosine` (from 0 to 2) or `euclidean`.

        Raises:
            ValueError: the picture is of another model, the vector of another length, or another value not allowed.
        """
        if count < 1:
            raise ValueError(f"count: {count} is not allowed: at least 1")
        if metric not in DISTANCES:
            raise ValueError(f"metric: {metric!r} is not allowed: {' or '.join(DISTANCES)}")
        if isinstance(picture, Featurized) and picture.model != self.model:
            raise ValueError(
                f"the picture is by model {picture.model}, and the rows are by {self.model}: features of two models "
                "cannot be compared; load that of the rows"
            )
        vector = picture.features if isinstance(picture, Featurized) else picture
        if vector.shape != self.features.shape[1:]:
            raise ValueError(
                f"the vector has the shape {vector.shape}, and a row of the matrix {self.features.shape[1:]}"
            )
        distances = np.concatenate([DISTANCES[metric](block, vector) for block in self._blocks()])
        within = np.partition(distances, count - 1)[count - 1] if count < len(self) else np.inf
        [near] = np.nonzero(distances <= within)  # all that are as near as the last one: paths decide among them
        found = sorted(zip(distances[near].tolist(), [self.paths[place] for place in near.tolist()], strict=True))
        return [Near(path, distance) for distance, path in found[:count]]

    def _blocks(self) -> Iterator[NDArray[np.float32]]:
        for start in range(0, max(len(self), 1), _ROWS_AT_ONCE):
            yield self.features[start : start + _ROWS_AT_ONCE]


def read_matrix(table: SearchTable, model: str | None) -> Matrix:
    """The rows of a model, but for those of forgotten pictures; None for the model of the latest rows.

    Raises:
        OutputError: the table has no rows, or a file is damaged.
        SettingsError: no row is of the model.
    """
    model = choose_model(table, model)

    def look(batch: pa.RecordBatch) -> tuple[pa.Array, NDArray[np.float32], int]:
        rows = batch.filter(pc.equal(batch.column("model_version"), model))
        return rows.column("path"), matrix(rows.column("features")), len(batch) - len(rows)

    paths, blocks, left_out = [], [], 0
    for found, block, others in scan(table, ("path", "model_version", "features"), look):
        left_out += others
        if len(found):
            paths.append(found)
            blocks.append(block)
    if not blocks:
        raise no_rows_of(table, model, left_out)
    everyone, features = pa.chunked_array(paths), np.concatenate(blocks)
    if denylist := table.denylist():  # as it is now: also what was forgotten meanwhile
        shown = denylist.mask(everyone)
        everyone, features = everyone.filter(shown), features[shown.to_numpy(zero_copy_only=False)]
    return Matrix(table.path, model, everyone.to_pylist(), features, left_out)
