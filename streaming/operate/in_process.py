"""Compares an input with what the stream has seen in this process, as long as both are small: no Java starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from conf.errors import NotFoundError
from streaming.lease.denylist import Denylist
from streaming.operate.comparison import LISTED, SEEN, InputComparison, as_listed, as_seen, at_rest
from streaming.output.known import KNOWN_FOLDER, count_folded
from streaming.output.manifests import LOG_FOLDER, SUFFIX, from_json_lines
from streaming.output.places import Input
from streaming.output.requests import REQUESTS_FOLDER
from streaming.storage.ahead import ahead
from streaming.storage.damaged import naming
from streaming.storage.folder import Folder, StoredPicture, files_ending
from streaming.storage.names import IGNORED
from streaming.storage.parquet import rows_in

LIMIT = 100_000
"""Pictures that this process lists, and reads of an output, before it leaves both to Spark.

With 100,000 on each side the program took 3.8 s of a core, 26 s on Spark; 120 MB were for the pictures of a record, 150
for those of a log. A listing that goes on is begun again, which wastes half of that time, and 100 requests on S3.
"""

_AT_ONCE = 16  # each is a request of 30 ms on S3


@dataclass(frozen=True)
class DifferencesHere:
    """Differences in the memory of this process; see `reconcile.Differences`."""

    listed: int
    unusable: int
    ignored: int
    table: pa.Table

    def counts(self) -> Counter[str]:
        return Counter(self.table.column("what").to_pylist())

    def first(self, what: str, count: int) -> Sequence[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._sorted(what).slice(0, count).to_pylist()
        return rows

    def missed(self) -> Iterator[StoredPicture]:
        for batch in self._sorted("missed").to_batches(max_chunksize=10_000):
            for row in batch.select(["path", "length", "modification_time", "etag"]).to_pylist():
                yield StoredPicture(**row)

    def _sorted(self, what: str) -> pa.Table:
        return self.table.filter(pc.field("what") == what).sort_by("path")


def compare_in_process(source: Input, output: Folder, settle: timedelta) -> DifferencesHere | None:
    """The differences, or None if more than `LIMIT` pictures are listed or were seen.

    Raises:
        StorageError: the input or the output cannot be read.
        AppError: a file of the output is damaged.
    """
    if count_folded(output) > LIMIT:
        return None
    started, left_out = datetime.now(UTC), Counter[str]()
    # Before the log is read, so that each listed picture that the stream has found is in both.
    listed = _list(source, settle, Denylist.load(output), left_out)
    if listed is None:
        return None
    comparison = InputComparison.of(source, started)

    def compare() -> pa.Table | None:
        seen = _at_most(LIMIT, _read_seen(output), SEEN)
        return None if seen is None else comparison.differences(listed, seen)

    differences = at_rest(output, compare)
    if differences is None:
        return None
    ignored = left_out[IGNORED]
    return DifferencesHere(len(listed), left_out.total() - ignored, ignored, differences)


def _list(source: Input, settle: timedelta, denylist: Denylist, left_out: Counter[str]) -> pa.Table | None:
    """The pictures of the input as `LISTED`, with a bar of them; None if there are too many."""
    pictures = source.pictures(lambda path, why: left_out.update([why]))
    with tqdm(pictures, unit=" pictures", unit_scale=True, desc="listing", disable=None) as shown:
        return _at_most(LIMIT, as_listed((one for one in shown if not denylist.is_forgotten(one.path)), settle), LISTED)


def _at_most(limit: int, parts: Iterable[pa.Table | pa.RecordBatch], schema: pa.Schema) -> pa.Table | None:
    """All rows of the parts, or None, without reading on, if there are more than `limit`."""
    batches: list[pa.RecordBatch] = []
    rows = 0
    for part in parts:
        rows += part.num_rows
        if rows > limit:
            return None
        batches += part.to_batches() if isinstance(part, pa.Table) else [part]
    return pa.Table.from_batches(batches, schema)


def _read_seen(output: Folder) -> Iterator[pa.Table]:
    """The pictures in requests, log and record as `SEEN`, file by file; all may be missing.

    Each folder is listed when the one before has been read: what the stream moves meanwhile is met in either.
    """
    for folder, suffix in ((REQUESTS_FOLDER, SUFFIX), (LOG_FOLDER, SUFFIX), (KNOWN_FOLDER, ".parquet")):
        for _, seen in ahead(partial(_read, output), files_ending(output, folder, suffix), _AT_ONCE):
            yield seen


def _read(output: Folder, name: str) -> pa.Table:
    try:
        data = output.read(name)
    except NotFoundError:  # the stream has taken it in, or folded it
        return SEEN.empty_table()
    folder, _, file = name.rpartition("/")
    with naming(output.path(name), "restore it"):
        if folder == KNOWN_FOLDER:
            record = rows_in(data)
            return record.rename_columns({"hash": "identity"}).select(SEEN.names).cast(SEEN)
        return as_seen(from_json_lines(data), file.removesuffix(SUFFIX) if folder == LOG_FOLDER else None)
