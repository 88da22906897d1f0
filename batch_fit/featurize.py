"""One distributed pass: pictures in, mergeable statistics and a small sample of features out.

It owns how the work is divided over the executors and brought together; it must not know what is computed from the
statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.accumulators import Accumulator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col, element_at, split
from pyspark.sql.pandas.types import from_arrow_schema

from batch_fit.held_back import Evidence, HeldBack, is_held_back, last_held_back
from batch_fit.statistics import Statistics, fold_batch, merge_all
from conf.tasks import is_retry
from streaming.features.dealing import deal
from streaming.features.featurizer import Recipe
from streaming.features.schema import OUTCOMES, as_table
from streaming.features.storage import spark_uri
from streaming.features.stored import StoredPicture, identity_of
from streaming.features.workers import featurize_with

SAMPLE = 2000
"""So many pictures, chosen by the hash of their paths, give their features to the report's scatter plot."""

_PICTURES_PER_TASK = (250, 4000)
_TASKS = 64
_MERGE_ABOVE = 16

_FOLDED = pa.schema(
    [
        OUTCOMES.field("path").with_nullable(True),
        OUTCOMES.field("features"),
        OUTCOMES.field("reason"),
        OUTCOMES.field("detail"),
        pa.field("statistics", pa.binary()),
    ]
)
_FOLDED_IN_SPARK = from_arrow_schema(_FOLDED)


@dataclass(frozen=True)
class Featurized:
    """What the pass over the pictures gives.

    Attributes:
        evidence: of all accepted pictures.
        outcomes: path, features (1280 float32, of the sample only), reason, detail; one row per picture.
    """

    evidence: Evidence
    outcomes: pa.Table

    @classmethod
    def nothing(cls) -> Featurized:
        """Of no pictures."""
        return cls(Evidence.nothing(), _FOLDED.empty_table().drop(["statistics"]))

    @property
    def accepted(self) -> pa.Table:
        """The rows of pictures that gave features."""
        return self.outcomes.filter(pc.is_null(self.outcomes.column("reason")))

    @property
    def rejected(self) -> pa.Table:
        """The rows of pictures that did not."""
        return self.outcomes.filter(pc.is_valid(self.outcomes.column("reason")))


def featurize(
    spark: SparkSession, pictures: Sequence[StoredPicture], recipe: Recipe, save_to: str | None, done: Accumulator[int]
) -> Featurized:
    """Featurize pictures on the executors.

    Args:
        spark: the session.
        pictures: at least one.
        recipe: without a projection.
        save_to: canonical path of a new Parquet table of path, label and features; None for none.
        done: counts the pictures of finished tasks, for a progress bar.
    """
    tasks = deal(as_table(pictures), _task_count(len(pictures)))
    frame = spark.createDataFrame(tasks)
    broadcast = spark.sparkContext.broadcast(recipe)
    to_outcomes = featurize_with(broadcast, is_retry)
    identities = sorted(picture.identity for picture in pictures)
    sample_up_to, held_back_up_to = identities[:SAMPLE][-1], last_held_back(identities)
    fold = _fold_with(sample_up_to, held_back_up_to, done)
    if save_to is None:
        folded = frame.mapInArrow(lambda batches: fold(to_outcomes(batches)), _FOLDED_IN_SPARK)
        result = _collect(folded, tasks.column(0).num_chunks)
    else:
        outcomes = frame.mapInArrow(to_outcomes, from_arrow_schema(OUTCOMES)).persist(StorageLevel.DISK_ONLY)
        _save(outcomes, save_to)
        result = _collect(outcomes.mapInArrow(fold, _FOLDED_IN_SPARK), tasks.column(0).num_chunks)
        outcomes.unpersist()
    broadcast.unpersist()
    partial = result.column("statistics").drop_null().to_pylist()
    rows = result.filter(pc.is_valid(result.column("path"))).drop(["statistics"])
    statistics = merge_all(Statistics.from_bytes(data) for data in partial)
    return _sort_out(statistics, rows, sample_up_to, held_back_up_to)


def _sort_out(statistics: Statistics, rows: pa.Table, sample_up_to: bytes, held_back_up_to: bytes) -> Featurized:
    """Of the pictures with features, tell those held back from those of the sample; some are both."""
    identities = [identity_of(path) for path in rows.column("path").to_pylist()]
    features = rows.column("features")
    held_back = {
        identity: row.values.to_numpy()
        for identity, row in zip(identities, features, strict=True)
        if row.is_valid and _is_held_back(identity, held_back_up_to)
    }
    in_sample = pa.chunked_array([[identity <= sample_up_to for identity in identities]], pa.bool_())
    sampled = pc.if_else(in_sample, features, pa.scalar(None, features.type))
    outcomes = rows.set_column(rows.schema.get_field_index("features"), rows.schema.field("features"), sampled)
    return Featurized(Evidence(statistics, HeldBack.of(held_back)), outcomes)


def _is_held_back(identity: bytes, up_to: bytes) -> bool:
    return identity <= up_to and is_held_back(identity)


def _task_count(pictures: int) -> int:
    low, high = _PICTURES_PER_TASK
    return math.ceil(pictures / min(max(pictures // _TASKS, low), high))


def _collect(folded: DataFrame, tasks: int) -> pa.Table:
    """The rows on the driver; of many tasks, the statistics are merged on the executors first (13 MB each)."""
    if tasks > _MERGE_ABOVE:
        folded = folded.repartition(math.isqrt(tasks)).mapInArrow(_merge, _FOLDED_IN_SPARK)
    return folded.toArrow().cast(_FOLDED)


def _save(outcomes: DataFrame, save_to: str) -> None:
    label = element_at(split("path", "/"), -2).alias("label")  # as schema.label_of
    outcomes.where(col("reason").isNull()).select("path", label, "features").write.parquet(spark_uri(save_to))


def _fold_with(
    sample_up_to: bytes, held_back_up_to: bytes, done: Accumulator[int]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function that folds batches of outcomes: their rows, and at the end one row with the statistics.

    Pictures of the sample and those held back keep their features; the latter are not in the statistics.
    """

    def fold(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        statistics = Statistics.empty()
        for outcomes in batches:
            identities = [identity_of(path) for path in outcomes.column("path").to_pylist()]
            held_back = pa.array([_is_held_back(identity, held_back_up_to) for identity in identities], pa.bool_())
            statistics = statistics.merge(fold_batch(outcomes.filter(pc.invert(held_back))))
            in_sample = pa.array([identity <= sample_up_to for identity in identities], pa.bool_())
            columns = [outcomes.column(name) for name in ("path", "features", "reason", "detail")]
            columns[1] = pc.if_else(pc.or_(in_sample, held_back), columns[1], pa.scalar(None, columns[1].type))
            yield pa.RecordBatch.from_arrays([*columns, pa.nulls(len(outcomes), pa.binary())], schema=_FOLDED)
            done.add(len(outcomes))
        yield _statistics_row(statistics)

    return fold


def _merge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Pass the rows of pictures on, and merge those with statistics into one."""
    statistics = Statistics.empty()
    for batch in batches:
        for data in batch.column("statistics").drop_null():
            statistics = statistics.merge(Statistics.from_bytes(data.as_py()))
        yield batch.filter(pc.is_null(batch.column("statistics")))
    yield _statistics_row(statistics)


def _statistics_row(statistics: Statistics) -> pa.RecordBatch:
    row = {name: [None] for name in _FOLDED.names} | {"statistics": [statistics.to_bytes()]}
    return pa.RecordBatch.from_pydict(row, schema=_FOLDED)
