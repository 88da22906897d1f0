"""Compares a backbone at its side with the same weights at 224 pixels, on held-out pictures of a fit.

Another side is faster and gives another feature space, which is worth what this tells. Both sides see the same pictures
in turns, in one process each time, so that a machine whose speed changes is equally fast for both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from batch_fit.held_back import HeldBack, measure
from batch_fit.pca import fit_pca
from batch_fit.statistics import Statistics
from conf.spark.tasks import is_retry
from streaming.features.backbone import BackboneRunner
from streaming.features.featurizer import Recipe
from streaming.features.fetching import Fetcher
from streaming.features.imaging import DEFAULT_SIDE, Rejected, decode
from streaming.features.reading import PictureReader
from streaming.features.schema import OUTCOMES, as_table, label_of
from streaming.features.workers import Broadcast, deal
from streaming.registry.bundle import ENOUGH_HELD_BACK
from streaming.storage.folder import StoredPicture

MOST_COMPARED = 1000
"""The most pictures that are compared, those with the smallest identities: 10 to 20 s of a core."""

NEIGHBOURS = 10

_PICTURES_PER_TASK = 50
_SEEN = pa.schema(
    [
        OUTCOMES.field("path"),
        OUTCOMES.field("features").with_name("own"),
        OUTCOMES.field("features").with_name("default"),
        pa.field("own_seconds", pa.float64(), nullable=False),
        pa.field("default_seconds", pa.float64(), nullable=False),
    ]
)
"""A picture's features at the backbone's own side and at 224 pixels, and the seconds of a core for each."""


@dataclass(frozen=True, eq=False)
class Sight:
    """What a backbone sees of m pictures at one side.

    Attributes:
        side: in pixels.
        features: (m, 1280) float32.
        seconds: of a core, for decoding and the backbone, of all pictures together.
    """

    side: int
    features: NDArray[np.float32]
    seconds: float


@dataclass(frozen=True, eq=False)
class Sights:
    """The same m pictures at a backbone's own side and at 224 pixels.

    Attributes:
        paths: of the pictures.
        own: at the backbone's own side.
        default: at 224 pixels.
    """

    paths: Sequence[str]
    own: Sight
    default: Sight


@dataclass(frozen=True)
class SideFigures:
    """The figures of one side.

    Attributes:
        side: in pixels.
        rate: pictures that a core decodes and infers in a second.
        k: the number of components of a model of these pictures.
        agreement: the share of pictures whose nearest neighbour has their label; None if all have the same.
        error_p95: of the reconstruction errors of pictures that a model has not seen.
        error_p99: of the same.
    """

    side: int
    rate: float
    k: int
    agreement: float | None
    error_p95: float
    error_p99: float


@dataclass(frozen=True)
class SidesCompared:
    """A comparison of a side with 224 pixels.

    Attributes:
        pictures: the number of pictures compared.
        variance: the share that the components of each side keep.
        overlap: of the `NEIGHBOURS` nearest neighbours of a picture at 224 pixels, the share that are so at this side.
        own: the figures of this side.
        default: those of 224 pixels.
    """

    pictures: int
    variance: float
    overlap: float
    own: SideFigures
    default: SideFigures


def look(spark: SparkSession, pictures: Iterable[StoredPicture], held_back: HeldBack, recipe: Recipe) -> Sights | None:
    """Both sights of those pictures that are held out; None if they are too few to compare.

    Args:
        spark: the session.
        pictures: that this fit has read.
        held_back: pictures that gave features at the backbone's own side.
        recipe: of the backbone.
    """
    held_out = frozenset(held_back.identities)
    chosen = sorted((one for one in pictures if one.identity in held_out), key=lambda one: one.identity)[:MOST_COMPARED]
    if len(chosen) < ENOUGH_HELD_BACK:
        return None
    slots = spark.sparkContext.defaultParallelism
    dealt = deal(as_table(chosen), min(slots, math.ceil(len(chosen) / _PICTURES_PER_TASK)))
    broadcast = spark.sparkContext.broadcast(recipe)
    see = look_with(broadcast, is_retry)
    seen = spark.createDataFrame(dealt).mapInArrow(see, from_arrow_schema(_SEEN)).toArrow()
    broadcast.unpersist()
    return as_sights(seen, BackboneRunner(recipe.backbone).side)


def look_with(
    broadcast: Broadcast, is_retry: Callable[[], bool]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function that runs in the workers: pictures to `_SEEN`. Those that can no longer be used are left out.

    Args:
        broadcast: of the recipe.
        is_retry: asked in the worker; if the task failed before, all of its pictures are left out, as a comparison is
            not worth that the fit fails.
    """

    def see(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if is_retry():
            return
        recipe = broadcast.value
        runners = BackboneRunner(recipe.backbone), BackboneRunner(recipe.backbone, DEFAULT_SIDE)
        reader = PictureReader(recipe.limits.max_bytes, recipe.connection, recipe.source)
        fetch = Fetcher(reader, recipe.limits.max_bytes, recipe.fetch_ahead)
        for batch in batches:
            paths, rows = batch.column("path").to_pylist(), []
            contents = fetch(paths, batch.column("length").to_pylist())
            for place, (path, content) in enumerate(zip(paths, contents, strict=True)):
                try:
                    data = content()
                    seen = {
                        runner.side: _timed(runner, data, recipe)
                        for runner in (runners[::-1] if place % 2 else runners)
                    }
                except Rejected:
                    continue
                rows.append((path, *zip(*(seen[runner.side] for runner in runners), strict=True)))
            yield _as_batch(rows)

    return see


def _timed(runner: BackboneRunner, data: bytes, recipe: Recipe) -> tuple[NDArray[np.float32], float]:
    started = time.thread_time()  # what other programs take of the core does not count
    features = runner.run(decode(data, recipe.limits, runner.side).pixels)
    return features, time.thread_time() - started


def _as_batch(rows: list[tuple[str, tuple[NDArray[np.float32], ...], tuple[float, ...]]]) -> pa.RecordBatch:
    columns = [
        [path for path, _, _ in rows],
        *([features[place] for _, features, _ in rows] for place in range(2)),
        *([seconds[place] for _, _, seconds in rows] for place in range(2)),
    ]
    arrays = [pa.array(column, one.type) for column, one in zip(columns, _SEEN, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SEEN)


def as_sights(seen: pa.Table, side: int) -> Sights | None:
    """The rows of `look_with`, by path; None if too few pictures could still be used."""
    if len(seen) < ENOUGH_HELD_BACK:
        return None
    ordered = seen.sort_by("path").combine_chunks()

    def sight(name: str, of: int) -> Sight:
        features = ordered.column(name).combine_chunks().flatten().to_numpy().reshape(len(ordered), -1)
        return Sight(of, features, float(np.sum(ordered.column(f"{name}_seconds").to_numpy())))

    return Sights(ordered.column("path").to_pylist(), sight("own", side), sight("default", DEFAULT_SIDE))


def compare_sides(sights: Sights, variance: float) -> SidesCompared:
    """The figures of both sides, each with scaler and PCA of its own, of the same pictures.

    Neighbours and labels are told with components fitted to all of the pictures, which know of no labels; errors are
    those of each half of the pictures in a model of the other half.

    Args:
        sights: of at least two pictures.
        variance: the share of it that the components are to keep.
    """
    labels = np.array([label_of(path) for path in sights.paths])
    figures, neighbours = zip(*(_figures(one, labels, variance) for one in (sights.own, sights.default)), strict=True)
    own, default = neighbours
    overlap = np.mean([len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(own, default, strict=True)])
    return SidesCompared(len(labels), variance, float(overlap), *figures)


def _figures(sight: Sight, labels: NDArray[np.str_], variance: float) -> tuple[SideFigures, NDArray[np.intp]]:
    """The figures of a side, and the nearest neighbours of each picture, the nearest first."""
    projection = fit_pca(Statistics.of(sight.features), None, variance)
    scores = (sight.features - projection.mean) * projection.factor @ projection.components
    neighbours = _nearest(scores)
    halves = sight.features[::2], sight.features[1::2]
    errors = np.concatenate(
        [
            measure(fit_pca(Statistics.of(fitted), None, variance), others)[0]
            for fitted, others in (halves, halves[::-1])
        ]
    )
    agreement = float((labels[neighbours[:, 0]] == labels).mean()) if len(np.unique(labels)) > 1 else None
    p95, p99 = (float(np.quantile(errors, share)) for share in (0.95, 0.99))
    return SideFigures(sight.side, len(labels) / sight.seconds, projection.k, agreement, p95, p99), neighbours


def _nearest(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    """The `NEIGHBOURS` nearest other rows of each row, (m, k), by Euclidean distance."""
    lengths = np.square(scores).sum(axis=1)
    distances = lengths[:, None] + lengths - 2 * scores @ scores.T
    np.fill_diagonal(distances, np.inf)
    nearest: NDArray[np.intp] = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    return nearest
