"""Folds outcomes into what a fit keeps of them: mergeable statistics, held-out pictures, and the report's sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.accumulators import Accumulator
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from batch_fit.held_back import Evidence, HeldBack, is_held_back, last_held_back
from batch_fit.statistics import Statistics, fold_batch, merge_all
from conf.errors import AppError
from conf.plural import plural
from streaming.features.schema import OUTCOMES
from streaming.storage.folder import identity_of
from streaming.storage.identities import Identities

SAMPLE = 2000
"""The number of pictures, chosen by the hash of their paths, in the report's scatter plot."""

_MERGE_ABOVE = 16
_PATHS_AT_ONCE = 10_000

FOLDED = pa.schema(
    [
        OUTCOMES.field("path").with_nullable(True),
        OUTCOMES.field("features"),
        OUTCOMES.field("reason"),
        OUTCOMES.field("detail"),
        pa.field("statistics", pa.binary()),
    ]
)
"""A row for each picture (features of the sample and of held-out ones only), and rows with statistics of others."""

_OUTCOMES = pa.schema(field for field in FOLDED if field.name != "statistics")

IN_SPARK = from_arrow_schema(FOLDED)
"""The same as a schema of Spark."""


@dataclass(frozen=True)
class Featurized:
    """The result of the pass over the pictures.

    Attributes:
        evidence: of all accepted pictures.
        outcomes: path, features (1280 float32, of the sample only), reason, detail; one row per picture.
    """

    evidence: Evidence
    outcomes: pa.Table

    @classmethod
    def nothing(cls) -> Featurized:
        """The result for no pictures."""
        return cls(Evidence.nothing(), _OUTCOMES.empty_table())

    @property
    def accepted(self) -> pa.Table:
        """The rows of pictures that gave features."""
        return self.outcomes.filter(pc.is_null(self.outcomes.column("reason")))

    @property
    def rejected(self) -> pa.Table:
        """The rows of pictures that were rejected."""
        return self.outcomes.filter(pc.is_valid(self.outcomes.column("reason")))


@dataclass(frozen=True)
class Marks:
    """The largest identity in the report's sample, and the largest that is held out."""

    sample: bytes
    held_back: bytes

    @classmethod
    def of(cls, identities: Identities) -> Marks:
        """The marks among the identities of all pictures, at least one."""
        return cls(identities.smallest(SAMPLE).last(), last_held_back(identities))


def collect(folded: DataFrame, tasks: int, marks: Marks) -> Featurized:
    """The result on the driver.

    Args:
        folded: what `fold_with` gives.
        tasks: its number of partitions; of many, the executors first merge the statistics (13 MB each).
        marks: as given to `fold_with`.
    """
    if tasks > _MERGE_ABOVE:
        folded = folded.repartition(math.isqrt(tasks)).mapInArrow(_merge, IN_SPARK)
    return conclude(folded.toArrow(), marks)


def conclude(result: pa.Table, marks: Marks) -> Featurized:
    """The result from all rows, `FOLDED`, that `fold_with` gave.

    Raises:
        AppError: the statistics are of more pictures than have features, or of fewer.
    """
    partial = (Statistics.from_bytes(data.as_py()) for data in result.column("statistics") if data.is_valid)
    statistics = merge_all(partial)
    rows = result.drop(["statistics"]).filter(pc.is_valid(result.column("path"))).cast(_OUTCOMES)
    return _sort_out(statistics, rows, marks)


def _sort_out(statistics: Statistics, rows: pa.Table, marks: Marks) -> Featurized:
    """Divide the pictures with features into held-out ones and those of the sample; some are both."""
    has_features = pc.is_valid(rows.column("features"))
    few = rows.filter(has_features)
    identities = [identity_of(path) for path in paths_of(few)]
    held_back = {
        identity: row.values.to_numpy()
        for identity, row in zip(identities, few.column("features"), strict=True)
        if _is_held_back(identity, marks)
    }
    held_back_rows = sum(_is_held_back(identity, marks) for identity in identities)
    _check_complete(statistics.count, rows.column("reason").null_count - held_back_rows)
    mask = has_features.combine_chunks()
    in_sample = pc.replace_with_mask(mask, mask, pa.array((one <= marks.sample for one in identities), pa.bool_()))
    features = rows.column("features")
    sampled = pc.if_else(in_sample, features, pa.scalar(None, features.type))
    outcomes = rows.set_column(rows.schema.get_field_index("features"), rows.schema.field("features"), sampled)
    return Featurized(Evidence(statistics, HeldBack.of(held_back)), outcomes)


def _check_complete(counted: int, accepted: int) -> None:
    """Refuse statistics that Spark has lost or doubled: where an executor is lost, it computes rows again."""
    if counted != accepted:
        raise AppError(
            f"the statistics are of {plural(counted, 'picture')}, and {accepted:,} should be in them: Spark has lost "
            "or repeated results, perhaps with an executor; fit again"
        )


def paths_of(rows: pa.Table) -> Iterator[str]:
    """The column path, of which few become objects of Python at a time: a million would take 100 MB."""
    for batch in rows.select(["path"]).to_batches(_PATHS_AT_ONCE):
        yield from batch.column("path").to_pylist()


def _is_held_back(identity: bytes, marks: Marks) -> bool:
    return identity <= marks.held_back and is_held_back(identity)


def fold_with(marks: Marks, done: Accumulator[int]) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function that folds batches of outcomes: their rows, and at the end one row with the statistics.

    Pictures of the sample and held-out ones keep their features; the latter are not in the statistics.
    """

    def fold(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        statistics = Statistics.empty()
        for outcomes in batches:
            identities = [identity_of(path) for path in outcomes.column("path").to_pylist()]
            held_back = pa.array([_is_held_back(identity, marks) for identity in identities], pa.bool_())
            statistics = statistics.merge(fold_batch(outcomes.filter(pc.invert(held_back))))
            in_sample = pa.array([identity <= marks.sample for identity in identities], pa.bool_())
            columns = [outcomes.column(name) for name in ("path", "features", "reason", "detail")]
            columns[1] = pc.if_else(pc.or_(in_sample, held_back), columns[1], pa.scalar(None, columns[1].type))
            yield pa.RecordBatch.from_arrays([*columns, pa.nulls(len(outcomes), pa.binary())], schema=FOLDED)
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
    row = {name: [None] for name in FOLDED.names} | {"statistics": [statistics.to_bytes()]}
    return pa.RecordBatch.from_pydict(row, schema=FOLDED)
