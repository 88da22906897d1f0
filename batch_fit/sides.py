"""Compares a backbone at its side with the same weights at 224 pixels, on held-out pictures of a fit.

Another side is faster, and gives another feature space. Both sides see the same pictures, a picture in turns by one
process, so that a machine whose speed changes is equally fast for both. Each side has a scaler and a PCA of its own,
fitted to a sample of the pictures that are not held out.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from batch_fit.folding import Featurized, paths_of
from batch_fit.held_back import measure_errors
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
from streaming.storage.folder import StoredPicture, identity_of

MOST_MEASURED = 500
"""The most held-out pictures that are seen at both sides, those with the smallest identities."""

MOST_FITTED = 1000
"""The most other pictures that are. Together they take 20 s of a core, or a minute if they are large."""

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
class OneSide:
    """The features of m pictures at one side of the backbone's input.

    Attributes:
        side: in pixels.
        features: (m, 1280) float32.
        seconds: of a core, for decoding and the backbone, of all pictures together.
    """

    side: int
    features: NDArray[np.float32]
    seconds: float


@dataclass(frozen=True, eq=False)
class BothSides:
    """The same m pictures at a backbone's own side and at 224 pixels.

    Attributes:
        paths: of the pictures.
        held_out: (m,) whether they are held out.
        own: at the backbone's own side.
        default: at 224 pixels.
    """

    paths: Sequence[str]
    held_out: NDArray[np.bool_]
    own: OneSide
    default: OneSide


@dataclass(frozen=True)
class SideFigures:
    """The figures of one side.

    Attributes:
        side: in pixels.
        rate: pictures that a core decodes and infers in a second.
        k: the number of components of the model that is fitted to the others.
        accuracy: the share of held-out pictures with the label of their nearest neighbour among the others; None if all
            have one label.
        error_p50: the median of the reconstruction errors of held-out pictures.
        error_p95: their 95th percentile.
    """

    side: int
    rate: float
    k: int
    accuracy: float | None
    error_p50: float
    error_p95: float


@dataclass(frozen=True)
class SidesCompared:
    """A comparison of a side with 224 pixels.

    Attributes:
        pictures: the number of held-out pictures.
        fitted: the number of other pictures.
        variance: the share of the others' variance that the components of each side keep.
        overlap: of the `NEIGHBOURS` nearest neighbours, among all, of a held-out picture at 224 pixels, the share that
            are so at this side.
        own: the figures of this side.
        default: those of 224 pixels.
    """

    pictures: int
    fitted: int
    variance: float
    overlap: float
    own: SideFigures
    default: SideFigures


def look(
    spark: SparkSession, pictures: Sequence[StoredPicture], featurized: Featurized, recipe: Recipe
) -> BothSides | None:
    """Both sights of a sample of pictures; None if they are too few to compare.

    Args:
        spark: the session.
        pictures: that this fit has read.
        featurized: the outcome, at the backbone's own side.
        recipe: of the backbone.
    """
    held_out, rejected = frozenset(featurized.evidence.held_back.identities), {*paths_of(featurized.rejected)}
    measured = _sample((one for one in pictures if one.identity in held_out), MOST_MEASURED)
    others = (one for one in pictures if one.identity not in held_out and one.path not in rejected)
    chosen = measured + _sample(others, MOST_FITTED)
    if len(measured) < ENOUGH_HELD_BACK:
        return None
    slots = spark.sparkContext.defaultParallelism
    dealt = deal(as_table(chosen), min(slots, math.ceil(len(chosen) / _PICTURES_PER_TASK)))
    broadcast = spark.sparkContext.broadcast(recipe)
    see = look_with(broadcast, is_retry)
    seen = spark.createDataFrame(dealt).mapInArrow(see, from_arrow_schema(_SEEN)).toArrow()
    broadcast.unpersist()
    return as_sights(seen, BackboneRunner(recipe.backbone).side, held_out)


def _sample(pictures: Iterable[StoredPicture], count: int) -> list[StoredPicture]:
    return heapq.nsmallest(count, pictures, key=lambda one: one.identity)


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


def as_sights(seen: pa.Table, side: int, held_out: Collection[bytes]) -> BothSides | None:
    """The rows of `look_with`, by path; None if too few pictures of either kind could still be used.

    Args:
        seen: `_SEEN`.
        side: of the backbone.
        held_out: identities of all pictures that are.
    """
    ordered = seen.sort_by("path").combine_chunks()
    paths = ordered.column("path").to_pylist()
    is_held_out = np.array([identity_of(path) in held_out for path in paths], bool)
    if min(is_held_out.sum(), (~is_held_out).sum()) < ENOUGH_HELD_BACK:
        return None

    def sight(name: str, of: int) -> OneSide:
        features = ordered.column(name).combine_chunks().flatten().to_numpy().reshape(len(ordered), -1)
        return OneSide(of, features, float(np.sum(ordered.column(f"{name}_seconds").to_numpy())))

    return BothSides(paths, is_held_out, sight("own", side), sight("default", DEFAULT_SIDE))


def compare_sides(sights: BothSides, variance: float) -> SidesCompared:
    """The figures of both sides, of the same pictures.

    Args:
        sights: with at least two pictures that are not held out, and more than `NEIGHBOURS` pictures in all.
        variance: the share of it that the components are to keep.
    """
    (own, nearest_own), (default, nearest) = (
        _figures(sight, sights, variance) for sight in (sights.own, sights.default)
    )
    overlap = np.mean([len(np.intersect1d(*pair)) / NEIGHBOURS for pair in zip(nearest_own, nearest, strict=True)])
    held_out = int(sights.held_out.sum())
    return SidesCompared(held_out, len(sights.paths) - held_out, variance, float(overlap), own, default)


def _figures(sight: OneSide, sights: BothSides, variance: float) -> tuple[SideFigures, NDArray[np.intp]]:
    """The figures of a side, and the places of the nearest neighbours of each held-out picture."""
    held_out, labels = sights.held_out, np.array([label_of(path) for path in sights.paths])
    projection = fit_pca(Statistics.of(sight.features[~held_out]), None, variance)
    scores = (sight.features - projection.mean) * projection.factor @ projection.components
    distances = _squared_distances(scores[held_out], scores)
    distances[np.arange(len(distances)), np.flatnonzero(held_out)] = np.inf  # to itself
    neighbours = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    accuracy = None
    if len(np.unique(labels)) > 1:
        among_others = labels[~held_out][distances[:, ~held_out].argmin(axis=1)]
        accuracy = float((among_others == labels[held_out]).mean())
    errors, _ = measure_errors(projection, sight.features[held_out])
    p50, p95 = (float(np.quantile(errors, share)) for share in (0.5, 0.95))
    rate = len(labels) / sight.seconds
    return SideFigures(sight.side, rate, projection.k, accuracy, p50, p95), neighbours


def _squared_distances(some: NDArray[np.float64], all_of_them: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) float64, of rows (n, k) to rows (m, k)."""
    lengths = (np.square(rows).sum(axis=1) for rows in (some, all_of_them))
    distances: NDArray[np.float64] = np.add.outer(*lengths) - 2 * some @ all_of_them.T
    return distances
