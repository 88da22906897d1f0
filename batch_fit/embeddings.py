"""Reads the embeddings of an output in place of its pictures: a fit in seconds, without TensorFlow.

Two passes over the files, as no process holds all rows: the first tells which pictures there are, and so which are in
the sample, and which are held out; the second folds the embeddings, as `featurize` folds those that it has computed.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from batch_fit.featurize import task_count
from batch_fit.folding import FOLDED, IN_SPARK, Featurized, Marks, collect, conclude, fold_with
from conf.aws.connection import S3Connection
from conf.errors import InputError, SettingsError
from conf.plural import plural
from conf.spark.progress import Progress
from streaming.features.schema import OUTCOMES
from streaming.lease.denylist import NOTHING, Denylist
from streaming.output.embeddings import read_embeddings
from streaming.storage.ahead import ahead, reads_at_once
from streaming.storage.folder import identity_of
from streaming.storage.identities import NO_IDENTITIES, Identities
from streaming.storage.locations import is_on_s3, open_folder

_logger = logging.getLogger(__name__)

_TASKS_PER_SLOT = 4
_FILES_HERE, _ROWS_HERE = 1000, 50_000
"""So many are read by this process in the seconds in which Spark would start its workers."""
_ROWS_AT_ONCE = 2000  # 10 MB; merging the statistics of a batch takes as long as folding some hundred rows

_PRESENT = pa.schema(
    [
        pa.field("backbone", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("identities", pa.binary(), nullable=False),
    ]
)
"""A row for each backbone of a task: how many rows it has, and their identities, packed, or the smallest of them."""

_ROWS = pa.schema([OUTCOMES.field("path"), OUTCOMES.field("features")])
_PATHS = pa.schema([OUTCOMES.field("path")])


@dataclass(frozen=True)
class RowFilter:
    """The rows that a fit takes; a value that is sent to the workers.

    Attributes:
        denylist: pictures that it must not take.
        backbone: `backbone.backbone_id` of the rows; None for all.
        last: the largest identity; None for all.
        seen: identities that the statistics of its base have already.
    """

    denylist: Denylist = NOTHING
    backbone: str | None = None
    last: bytes | None = None
    seen: Identities = field(default_factory=lambda: NO_IDENTITIES, repr=False)

    def of(self, rows: pa.Table) -> pa.Table:
        """Those of `rows`, which have at least the columns path and backbone."""
        paths, backbones = (rows.column(name).to_pylist() for name in ("path", "backbone"))
        identities = [identity_of(path) for path in paths]
        taken = [
            (self.backbone is None or backbone == self.backbone)
            and (self.last is None or identity <= self.last)
            and not is_seen
            and not self.denylist.is_forgotten(path)
            for path, backbone, identity, is_seen in zip(
                paths, backbones, identities, self.seen.has(identities).tolist(), strict=True
            )
        ]
        return rows.filter(pa.array(taken, pa.bool_()))


@dataclass(frozen=True)
class Embeddings:
    """Files of a table of embeddings, and which of their rows a fit takes."""

    output: str
    connection: S3Connection
    files: Sequence[str] = field(repr=False)
    wanted: RowFilter

    def choose(
        self, spark: SparkSession, limit: int | None, progress: Progress, preferred: str | None = None
    ) -> tuple[Embeddings, Identities]:
        """These files with the rows of one backbone, of all pictures or a sample of `limit`; and their identities.

        The same pictures are chosen as by `sample.choose`. The rows may be none, if the base has seen them all.

        Args:
            spark: the session.
            limit: the size of a sample; None for all.
            progress: shows how far it is.
            preferred: the backbone that is taken where the rows are of several, and none is chosen.

        Raises:
            InputError: there are no rows.
            SettingsError: the rows are of several backbones, none of them the preferred one, and none is chosen.
            OutputError: a file cannot be read.
        """
        present = self._present(spark, limit, progress).to_pylist()
        rows = Counter[str]()
        for one in present:
            rows[one["backbone"]] += one["rows"]
        backbone = self.wanted.backbone or _choose_backbone(rows, preferred, self.output)
        identities = Identities.of_packed(one["identities"] for one in present if one["backbone"] == backbone)
        identities = identities.smallest(limit)
        if not identities:
            raise InputError(self._nothing(rows))
        chosen = replace(self.wanted, backbone=backbone, last=identities.last())
        return replace(self, wanted=chosen), identities - self.wanted.seen

    def _nothing(self, rows: Counter[str]) -> str:
        """The message that there are no rows of the wanted backbone, but so many of others."""
        if self.wanted.backbone is None or not rows:
            return f"{self.output} has no embeddings in these days; nothing can be fitted"
        return (
            f"{self.output} has no embeddings of backbone {self.wanted.backbone} (of --backbone, or of the model of "
            f"--from) in these days, but of {_told(rows)}; nothing can be fitted"
        )

    def fold(self, spark: SparkSession, identities: Identities, progress: Progress) -> Featurized:
        """Fold the chosen rows, which have these identities."""
        if not identities:
            return Featurized.nothing()
        marks = Marks.of(identities)
        done = spark.sparkContext.accumulator(0)
        read, fold = self._reader(("path", "embedding", "backbone"), self.wanted), fold_with(marks, done)
        with progress(len(identities), "embeddings", lambda: done.value):
            if len(identities) <= _ROWS_HERE and len(self.files) <= _FILES_HERE:
                return conclude(
                    pa.Table.from_batches(fold(_as_outcomes(read(self._names(len(self.files)).to_batches()))), FOLDED),
                    marks,
                )
            frame, tasks = self._divided(spark, self._task_count(spark, len(identities)))
            folded = frame.mapInArrow(lambda batches: fold(_as_outcomes(read(batches))), IN_SPARK)
            return collect(folded, tasks, marks)

    def rows(self, spark: SparkSession, count: int) -> DataFrame:
        """Path and features of the chosen rows, `count` of them, which are read as they are used."""
        read = self._reader(("path", "embedding", "backbone"), self.wanted)
        frame, _ = self._divided(spark, self._task_count(spark, count))
        return frame.mapInArrow(
            lambda batches: (outcomes.select(_ROWS.names) for outcomes in _as_outcomes(read(batches))),
            from_arrow_schema(_ROWS),
        )

    def paths(self, spark: SparkSession) -> list[str]:
        """The paths of the chosen rows."""
        read = self._reader(("path", "backbone"), self.wanted)

        def select(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for rows in read(batches):
                yield from rows.select(_PATHS.names).to_batches()

        found: list[str] = self._map(spark, select, _PATHS).column("path").to_pylist()
        return found

    def _present(self, spark: SparkSession, limit: int | None, progress: Progress) -> pa.Table:
        """The rows that are not forgotten, `_PRESENT`.

        Spark hands results of 1 GB at most to this process: 60 million identities, or any number of a sample.
        """
        read = self._reader(("path", "backbone"), RowFilter(self.wanted.denylist))
        done = spark.sparkContext.accumulator(0)

        def survey(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            rows, packed = Counter[str](), defaultdict[str, list[bytes]](list)
            for table in read(batches):
                paths, backbones = (table.column(name).to_pylist() for name in ("path", "backbone"))
                rows.update(backbones)
                for backbone in {*backbones}:
                    mine = (path for path, one in zip(paths, backbones, strict=True) if one == backbone)
                    packed[backbone].append(b"".join(map(identity_of, mine)))
                done.add(1)
            found = [
                (one, rows[one], Identities.of_packed(packed[one]).smallest(limit).packed()) for one in sorted(rows)
            ]
            columns = [[row[place] for row in found] for place in range(len(_PRESENT))]
            yield pa.RecordBatch.from_arrays(
                [pa.array(column, field.type) for column, field in zip(columns, _PRESENT, strict=True)], schema=_PRESENT
            )

        with progress(len(self.files), "files", lambda: done.value):
            return self._map(spark, survey, _PRESENT)

    def _map(
        self,
        spark: SparkSession,
        function: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]],
        schema: pa.Schema,
    ) -> pa.Table:
        """The batches that a function makes of the files' names, by Spark if they are many."""
        if len(self.files) <= _FILES_HERE:
            return pa.Table.from_batches(function(self._names(len(self.files)).to_batches()), schema)
        frame, _ = self._divided(spark, _most_tasks(spark))
        return frame.mapInArrow(function, from_arrow_schema(schema)).toArrow().cast(schema)

    def _names(self, each: int) -> pa.Table:
        """A row for so many files; rows of single names would be divided again, by `maxRecordsPerBatch`."""
        return pa.table({"names": [self.files[start : start + each] for start in range(0, len(self.files), each)]})

    def _task_count(self, spark: SparkSession, rows: int) -> int:
        """Each task ends with statistics of 13 MB, so there are no more than keep all slots busy to the end."""
        return min(task_count(rows), _most_tasks(spark), len(self.files))

    def _divided(self, spark: SparkSession, tasks: int) -> tuple[DataFrame, int]:
        """The names in about so many partitions, and their number; each row becomes one."""
        each = math.ceil(len(self.files) / tasks)
        shares = self._names(each)
        return spark.createDataFrame(pa.Table.from_batches(shares.to_batches(1))), len(shares)

    def _reader(
        self, columns: Sequence[str], wanted: RowFilter
    ) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.Table]]:
        """The function that reads files in a worker: the wanted rows of each."""
        output = self.output
        connection = self.connection.resolved() if is_on_s3(output) else self.connection  # a worker's may differ

        def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
            folder = open_folder(output, connection)
            names = (name for batch in batches for share in batch.column("names").to_pylist() for name in share)
            for name, data in ahead(folder.read, names, reads_at_once(output)):
                yield wanted.of(read_embeddings(folder.path(name), data, columns))

        return read


def _most_tasks(spark: SparkSession) -> int:
    return spark.sparkContext.defaultParallelism * _TASKS_PER_SLOT


def _choose_backbone(rows: Counter[str], preferred: str | None, output: str) -> str | None:
    """The only backbone that rows have, or the preferred one of several; None if there are no rows."""
    if len(rows) > 1 and preferred in rows:
        _logger.info(
            "%s has embeddings of several backbones: %s; taking %s, that of the current model (--backbone takes "
            "another)",
            output,
            _told(rows),
            preferred,
        )
        return preferred
    if len(rows) > 1:
        raise SettingsError(
            f"fit.backbone: {output} has embeddings of several backbones: {_told(rows)}; give --backbone ID"
        )
    return next(iter(rows), None)


def _told(rows: Counter[str]) -> str:
    """The backbones, with their numbers of rows, the most frequent first."""
    return ", ".join(f"{name} ({plural(count, 'row')})" for name, count in rows.most_common())


def _as_outcomes(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    """The rows of many small files as `fold_with` takes them, in fewer and larger batches."""
    held: list[pa.Table] = []
    for table in chain(tables, [None]):
        if table is not None:
            held.append(table)
        if held and (table is None or sum(map(len, held)) >= _ROWS_AT_ONCE):
            for batch in pa.concat_tables(held).combine_chunks().to_batches():
                nothing = pa.nulls(len(batch), pa.string())
                yield pa.RecordBatch.from_arrays(
                    [batch.column("path"), batch.column("embedding"), nothing, nothing],
                    names=["path", "features", "reason", "detail"],
                )
            held = []
