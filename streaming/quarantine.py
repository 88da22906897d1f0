"""What is in quarantine, and how it is asked for once more.

It owns what counts as a row of quarantine and what a retry asks for; it must not know what becomes of a retry. It reads
beside a running stream and takes no lease: both verbs are jobs of Spark over the quarantine files.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - as everybody calls it
from pyspark.sql.pandas.types import from_arrow_schema
from tqdm import tqdm

from conf.progress import task_bar
from conf.s3 import S3Connection
from conf.session import start_session
from conf.settings import Settings
from streaming.features.denylist import Denylist
from streaming.features.schema import QUARANTINE, Reason
from streaming.features.storage import is_on_s3, look_up, spark_glob
from streaming.features.stored import Folder, StoredPicture
from streaming.places import open_output
from streaming.retries import Quarantined, create_retry, retry_ids
from streaming.sink import QUARANTINE_TABLE, unfinished

PICTURES_PER_RETRY = 1000
_EXAMPLES = 10
_LOOKS_AT_ONCE = 16  # each is a request of 30 ms on S3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS = pa.schema(
    [
        pa.field("manifest", pa.string()),
        pa.field("path", pa.string()),
        pa.field("length", pa.int64()),
        pa.field("micros", pa.int64()),
        pa.field("etag", pa.string()),
    ]
)
"""Quarantined pictures on their way to a request; `micros` is the modification time since 1970, UTC."""


@dataclass(frozen=True)
class Example:
    """A row of quarantine.

    Attributes:
        path, reason, detail: as in the table.
        when: the beginning of its micro-batch, UTC.
    """

    path: str
    reason: str
    detail: str
    when: datetime


@dataclass(frozen=True)
class Listed:
    """What is in quarantine.

    Attributes:
        output: canonical path.
        reasons: the number of pictures by reason, the greatest first.
        newest: the latest rows.
        retries: requests that the stream has not finished.
    """

    output: str
    reasons: dict[str, int]
    newest: Sequence[Example]
    retries: int

    def as_json(self) -> str:
        """One object with the attributes as keys; times are ISO 8601 in UTC."""
        return json.dumps(asdict(self), default=datetime.isoformat)

    def as_text(self) -> str:
        """A line per reason, the newest rows, and what to do next."""
        lines = [f"quarantined  {sum(self.reasons.values()):,} pictures in {self.output}"]
        lines += [f"             {count:,} {reason}" for reason, count in self.reasons.items()]
        for word, row in zip(["newest", *[""] * _EXAMPLES], self.newest, strict=False):
            lines.append(f"{word:<12} {row.when:%Y-%m-%d %H:%M:%S} {row.reason} {row.path}: {row.detail}")
        if self.retries:
            lines.append(
                f"waiting      {_requests(self.retries)}; a running stream, or the next run or replay, sees to it"
            )
        elif self.reasons:
            again = shlex.join(("--output", self.output))
            lines.append(f"next         python -m streaming quarantine retry {again} --reason REASON")
        return "\n".join(lines)


@dataclass(frozen=True)
class Asked:
    """What a retry asks for.

    Attributes:
        pictures: how many.
        requests: ids of the requests; None if it was only tried.
    """

    pictures: int
    requests: Sequence[str] | None

    def as_json(self) -> str:
        """One object with the attributes as keys."""
        return json.dumps(asdict(self))

    def as_text(self) -> str:
        """One line."""
        if self.requests is None:
            return f"would retry  {self.pictures:,} pictures"
        if not self.requests:
            return "nothing to retry"
        return (
            f"requested    {self.pictures:,} pictures in {_requests(len(self.requests))}; the running stream takes "
            "them in, or the next run or replay"
        )


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count:,} requests"


def list_quarantine(settings: Settings, reason: Reason | None) -> Listed:
    """What is in quarantine, of one reason or all.

    Raises:
        OutputError: the output is none.
    """
    with _opened(settings, reason) as (_, output, rows), task_bar(rows.sparkSession):
        counted = rows.groupBy("reason").count().orderBy(F.desc("count"), "reason").collect()
        columns = ("path", "reason", "detail", F.col("processed_at").alias("when"))
        # Through Arrow, because `collect` would give times without a zone, in that of this process.
        newest = rows.orderBy(F.desc("processed_at"), "path").limit(_EXAMPLES).select(*columns).toArrow().to_pylist()
        return Listed(
            output=output.root,
            reasons={row["reason"]: row["count"] for row in counted},
            newest=[Example(**row) for row in newest],
            retries=len(retry_ids(output)),
        )


def retry_quarantine(settings: Settings, reason: Reason | None, *, dry_run: bool) -> Asked:
    """Ask for the pictures in quarantine, of one reason or all, once more; twice the same rows give the same requests.

    Each picture is looked at anew: one that was overwritten since is asked for as it is now.

    Raises:
        OutputError: the output is none.
    """
    with _opened(settings, reason) as (connection, output, rows):
        count = rows.count()
        if dry_run:
            return Asked(count, None)
        reached = connection.resolved() if is_on_s3(output.root) else connection
        modified = F.unix_micros("modification_time").alias("micros")
        known = rows.select("manifest", "path", "length", modified, F.lit(None).cast("string").alias("etag"))
        present = known.orderBy("manifest", "path").mapInArrow(_look_up_with(reached), from_arrow_schema(_ROWS))
        denylist = Denylist.load(output)
        rows_now = (row for row in present.toLocalIterator() if not denylist.is_forgotten(row["path"]))
        asked = map(_quarantined, rows_now)
        made = []
        with tqdm(total=count, unit=" pictures", unit_scale=True, desc="retry", disable=None) as bar:
            while request := list(islice(asked, PICTURES_PER_RETRY)):
                made.append(create_retry(output, request))
                bar.update(len(request))
        return Asked(count, made)


@contextmanager
def _opened(settings: Settings, reason: Reason | None) -> Iterator[tuple[S3Connection, Folder, DataFrame]]:
    """An output and its rows of quarantine, while the session lasts."""
    connection = S3Connection.of(settings.s3)
    output = open_output(settings, connection)
    properties = connection.spark_properties() if is_on_s3(output.root) else {}
    spark = start_session("picture-features quarantine", settings, properties)
    try:
        rows = _read_rows(spark, output)
        yield connection, output, rows.where(F.col("reason") == reason.value) if reason else rows
    finally:
        spark.stop()


def _read_rows(spark: SparkSession, output: Folder) -> DataFrame:
    """The rows of finished manifests, each with its `manifest`; a file of another is what a killed attempt has left."""
    at_work = unfinished(output)
    reader = spark.read.schema(from_arrow_schema(QUARANTINE)).option("ignoreMissingFiles", value=True)
    rows = reader.parquet(spark_glob(output.path(QUARANTINE_TABLE)))
    rows = rows.withColumn("manifest", F.regexp_replace("_metadata.file_name", r"\.parquet$", ""))
    return rows.where(~F.col("manifest").isin(at_work)) if at_work else rows


def _look_up_with(connection: S3Connection) -> Any:
    """The function that mapInArrow runs in the workers: `_ROWS` as quarantine knows them to `_ROWS` as they are now."""

    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(_LOOKS_AT_ONCE) as threads:
            for batch in batches:
                found = threads.map(lambda path: look_up(path, connection), batch.column("path").to_pylist())
                rows = [{**row, **_present(one)} for row, one in zip(batch.to_pylist(), found, strict=True)]
                yield pa.RecordBatch.from_pylist(rows, schema=_ROWS)

    return look


def _present(picture: StoredPicture | None) -> dict[str, Any]:
    """What has to change of a row: nothing of a picture that cannot be looked at, as the retry will say why."""
    if picture is None:
        return {}
    micros = (picture.modification_time - _EPOCH) // timedelta(microseconds=1)
    return {"length": picture.length, "micros": micros, "etag": picture.etag}


def _quarantined(row: Any) -> Quarantined:
    return Quarantined(StoredPicture(row["path"], row["length"], _time(row["micros"]), row["etag"]), row["manifest"])


def _time(micros: int) -> datetime:
    """Spark would give a time without a zone, in that of this process."""
    return _EPOCH + timedelta(microseconds=micros)
