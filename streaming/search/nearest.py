"""Distances between feature vectors, and the nearest rows of a table: an exact search, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import merge
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streaming.lease.denylist import Denylist
from streaming.search.choices import Metric
from streaming.search.query import Query
from streaming.search.scan import FILE, matrix, scan
from streaming.search.table import SearchTable


def cosine(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 - cos of the angle between each of (n, k) vectors and (k,); from 0 to 2, and 1 where one of them is zero."""
    wide, of = vectors.astype(np.float64), query.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide)) * np.sqrt(of @ of)
    cosines = np.divide(wide @ of, lengths, out=np.zeros(len(wide)), where=lengths > 0)
    distances: NDArray[np.float64] = np.clip(1 - cosines, 0, 2)
    return distances


def euclidean(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """The length of the difference between each of (n, k) vectors and (k,)."""
    apart = vectors.astype(np.float64) - query
    distances: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", apart, apart))
    return distances


DISTANCES: dict[Metric, Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]] = {
    "cosine": cosine,
    "euclidean": euclidean,
}


@dataclass(frozen=True, order=True)
class Neighbour:
    """A row near the query; sorts by distance, then by path.

    Attributes:
        distance: from the query.
        path: of the picture.
        file: that has its row, by its place among those of the table.
    """

    distance: float
    path: str
    file: int


@dataclass(frozen=True)
class Ranked:
    """The outcome of a search.

    Attributes:
        neighbours: the nearest first.
        compared: the number of rows of the query's model, but its own.
        left_out: the number of rows of other models.
    """

    neighbours: list[Neighbour]
    compared: int
    left_out: int


def rank(table: SearchTable, query: Query, metric: Metric, count: int, denylist: Denylist) -> Ranked:
    """The `count` rows of the query's model that are nearest to it, without its own and those that are forgotten."""
    worst = np.inf

    def look(batch: pa.RecordBatch) -> tuple[list[Neighbour], int, int]:
        of_model = pc.equal(batch.column("model_version"), query.model)
        others = len(batch) - (pc.sum(of_model).as_py() or 0)
        compared = pc.and_(of_model, pc.not_equal(batch.column("path"), query.path))
        rows = batch if pc.all(compared).as_py() else batch.filter(compared)  # a filter copies
        distances = DISTANCES[metric](matrix(rows.column("features"), len(query.features)), query.features)
        return _best(rows, distances, worst, count, denylist), len(rows), others

    nearest: list[Neighbour] = []
    compared = left_out = 0
    for found, rows, others in scan(table, ("path", "model_version", "features"), look):
        nearest = list(islice(merge(nearest, found), count))
        if len(nearest) == count:
            worst = nearest[-1].distance
        compared += rows
        left_out += others
    return Ranked(nearest, compared, left_out)


def _best(
    rows: pa.RecordBatch, distances: NDArray[np.float64], worst: float, count: int, denylist: Denylist
) -> list[Neighbour]:
    """The nearest rows of a batch, at most `count`, and none farther away than `worst`, in order."""
    [near] = np.nonzero(distances <= worst)
    if not denylist and len(near) > count:  # all that are as near as the last one: paths decide among them
        near = near[distances[near] <= np.partition(distances[near], count - 1)[count - 1]]
    if not len(near):
        return []
    paths, files = (rows.column(name).take(pa.array(near)).to_pylist() for name in ("path", FILE))
    found = sorted(map(Neighbour, distances[near].tolist(), paths, files))
    return list(islice((one for one in found if not denylist.is_forgotten(one.path)), count))
