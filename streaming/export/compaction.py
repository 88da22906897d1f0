"""Compacts many small files of the table of features into few large, sorted ones: in this process, or by Spark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc

from conf.settings import Settings
from conf.spark.progress import Progress
from conf.spark.session import is_submitted, spark_session
from streaming.export.by_spark import compact_by_spark
from streaming.export.formats import GROUPS_PER_FILE
from streaming.export.record import SnapshotFile
from streaming.export.rows import ROWS_PER_BATCH, Counts, Target, Written, read_sources, write_rows
from streaming.storage.locations import open_folder

# What takes this process as long as Spark takes to start and to distribute it, 10 s: on one core, 2.2 ms for each file
# and 25 ms for each MiB of them, those of embeddings included, or 90 ms where they become CSV. If all is of one day, it
# needs 600 MB of memory at most: Parquet shrinks rows of 4 features to a ninth.
FILES_HERE = 2_000
BYTES_HERE = 64 * 2**20


@dataclass(frozen=True)
class Compacted:
    """The result of `compact`: by day, the numbers of rows that were read, and the files that were written."""

    counts: dict[date, Counts]
    files: dict[date, list[SnapshotFile]]


def compact(settings: Settings, output: str, sources: pa.Table, target: Target, progress: Progress) -> Compacted:
    """Write the rows of `sources`, which are `rows.SOURCES`, at least one, into new files.

    Raises:
        OutputError: a file of the table is damaged; the message names it.
    """
    if _is_small(sources) and not is_submitted():
        counts, written = _compact_here(output, sources, target, progress)
    else:
        with spark_session("picture-features export", settings, {}) as spark:
            counts, written = compact_by_spark(spark, output, sources, target, progress)
    files: dict[date, list[SnapshotFile]] = {}
    for one in sorted(written, key=lambda one: one.name):
        file = SnapshotFile(name=one.name, rows=one.rows, bytes=one.bytes)
        files.setdefault(date.fromisoformat(one.date), []).append(file)
    return Compacted({date.fromisoformat(day): count for day, count in counts.items()}, files)


def _is_small(sources: pa.Table) -> bool:
    files = len(sources) + len(sources.column("embeddings").drop_null())
    size = sum(pc.sum(sources.column(name)).as_py() for name in ("length", "embeddings_length"))
    return files <= FILES_HERE and bool(size <= BYTES_HERE)


def _compact_here(
    output: str, sources: pa.Table, target: Target, progress: Progress
) -> tuple[dict[str, Counts], list[Written]]:
    """`by_spark.compact_by_spark` in this process, with all rows in one partition, of which it holds one day."""
    counts: dict[str, Counts] = {}
    read = 0

    def sorted_rows() -> Iterator[pa.Table]:
        nonlocal read
        files = sources.sort_by("date").to_pylist()
        of_files = read_sources(open_folder(output, target.connection), files, target.model)
        for day, of_day in groupby(of_files, key=itemgetter(0)):
            tables, left_out = [], 0
            for _, table in of_day:
                tables.append(_wanted(table, target))
                left_out += len(table) - len(tables[-1])
                read += 1
            rows = pa.concat_tables(tables)
            counts[day] = Counts(len(rows), left_out)
            if len(rows):
                yield from _sort(rows, target)

    with progress(len(sources), "files", lambda: read):
        written = list(write_rows(target, 0, sorted_rows()))
    return counts, written


def _wanted(rows: pa.Table, target: Target) -> pa.Table:
    """Those rows that are of the model of the snapshot, if it has one."""
    return rows.filter(pc.equal(rows.column("model_version"), target.model.version)) if target.model else rows


def _sort(rows: pa.Table, target: Target) -> Iterator[pa.Table]:
    """The sorted rows of a day, in tables that are small beside a file."""
    ordered = rows.sort_by([(name, "ascending") for name in target.layout.order]).combine_chunks()
    few = len(ordered) * target.file_bytes // (ordered.nbytes * GROUPS_PER_FILE)
    step = max(1, min(few, ROWS_PER_BATCH))
    return (ordered.slice(start, step) for start in range(0, len(ordered), step))
