"""Lists the pictures in quarantine, and asks for them to be retried.

It reads beside a running stream and takes no lease: a file that is deleted meanwhile counts as one without rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from conf.answers import Answer, Row, command
from conf.aws.connection import S3Connection
from conf.errors import NotFoundError, StorageError
from conf.plural import plural
from conf.settings import Settings
from streaming.features.reasons import Reason
from streaming.features.schema import QUARANTINE
from streaming.lease.denylist import Denylist
from streaming.output.decision import QUARANTINE_TABLE, complete_manifests
from streaming.output.places import open_output
from streaming.output.retries import Quarantined, create_retry, retry_ids
from streaming.output.tables import finished, unfinished
from streaming.storage.ahead import ahead
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import look_up
from streaming.storage.parquet import parquet_files, read_rows

_PICTURES_PER_RETRY = 1000
_EXAMPLES = 10
_AT_ONCE = 16  # each is a request of 30 ms on S3
_SUFFIX = ".parquet"


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
class Listed(Answer):
    """The pictures in quarantine.

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

    def rows(self) -> Iterator[Row]:
        """A row per reason, and the newest rows."""
        yield "quarantined", f"{plural(sum(self.reasons.values()), 'picture')} in {self.output}"
        for reason, count in self.reasons.items():
            yield "", f"{count:,} {reason}"
        for word, row in zip(["newest", *[""] * _EXAMPLES], self.newest, strict=False):
            yield word, f"{row.when:%Y-%m-%d %H:%M:%S} {row.reason} {row.path}: {row.detail}"
        if self.retries:
            taken = "a running stream, or the next run or replay, sees to it"
            yield "waiting", f"{plural(self.retries, 'request')}; {taken}"

    def next_step(self) -> str | None:
        """To retry those of a reason whose cause is fixed."""
        if self.retries or not self.reasons:
            return None
        return command("streaming", "quarantine", "retry", "--output", self.output, "--reason", "REASON")


@dataclass(frozen=True)
class RetryRequested(Answer):
    """The pictures that a retry asks for.

    Attributes:
        pictures: how many.
        requests: ids of the requests; None if it was only tried.
    """

    pictures: int
    requests: Sequence[str] | None

    def rows(self) -> Iterator[Row]:
        """One row."""
        if self.requests is None:
            yield "would retry", plural(self.pictures, "picture")
        elif not self.requests:
            yield "nothing to retry"
        else:
            requests = plural(len(self.requests), "request")
            taken = "the running stream takes them in, or the next run or replay"
            yield "requested", f"{plural(self.pictures, 'picture')} in {requests}; {taken}"

    def next_step(self) -> str | None:
        """To do what was only tried."""
        return "the same command without --dry-run" if self.requests is None and self.pictures else None


def list_quarantine(settings: Settings, reason: Reason | None) -> Listed:
    """The pictures in quarantine, of one reason or all.

    Raises:
        OutputError: no stream has begun on the output, or a file of it cannot be read.
    """
    output = open_output(settings, S3Connection.of(settings.s3))
    reasons: Counter[str] = Counter()
    newest: list[Example] = []
    for _, rows in _read_rows(output, reason, ("path", "reason", "detail", "processed_at")):
        reasons.update(rows.column("reason").to_pylist())
        newest = sorted([*newest, *_newest(rows)], key=_age)[:_EXAMPLES]
    return Listed(
        output=output.root,
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        newest=newest,
        retries=len(retry_ids(output)),
    )


def _newest(rows: pa.Table) -> list[Example]:
    """The newest rows of a file, so that a large one does not become a million objects."""
    last = pc.select_k_unstable(rows, _EXAMPLES, [("processed_at", "descending"), ("path", "ascending")])
    return [Example(when=row.pop("processed_at"), **row) for row in rows.take(last).to_pylist()]


def _age(example: Example) -> tuple[float, str]:
    return -example.when.timestamp(), example.path


def retry_quarantine(settings: Settings, reason: Reason | None, *, dry_run: bool) -> RetryRequested:
    """Ask for the pictures in quarantine, of one reason or all, once more; twice the same rows give the same requests.

    Each picture is looked at again: one that was overwritten since is asked for as it is now.

    Raises:
        OutputError: no stream has begun on the output, or a file of it cannot be read.
    """
    connection = S3Connection.of(settings.s3)
    output = open_output(settings, connection)
    denylist = Denylist.load(output)
    known = (
        Quarantined(StoredPicture(row["path"], row["length"], row["modification_time"]), manifest)
        for manifest, rows in _read_rows(output, reason, ("path", "reason", "length", "modification_time"))
        for row in rows.sort_by("path").to_pylist()
        if not denylist.is_forgotten(row["path"])
    )
    if dry_run:
        return RetryRequested(sum(1 for _ in known), None)
    present = (
        # The retry of one that cannot be looked at will say why.
        Quarantined(found or row.picture, row.manifest)
        for row, found in ahead(lambda row: look_up(row.picture.path, connection), known, _AT_ONCE)
    )
    pictures, requests = 0, []
    while request := list(islice(present, _PICTURES_PER_RETRY)):
        requests.append(create_retry(output, request))
        pictures += len(request)
    return RetryRequested(pictures, requests)


def _read_rows(output: Folder, reason: Reason | None, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """The decided manifests that have rows in quarantine, in their order, each with these columns of its rows.

    The quarantine file of a manifest that is not decided is left out: its features file was deleted by hand.
    """
    with suppress(StorageError):  # who may only read sees the rows when the next stream begins
        complete_manifests(output, finished(output))
    at_work = {*unfinished(output)}
    names = parquet_files(output, QUARANTINE_TABLE)
    files = sorted((name for name in names if _manifest(name) not in at_work), key=_manifest)
    with tqdm(total=len(files), unit=" files", unit_scale=True, desc="quarantine", disable=None) as bar:
        for name, rows in ahead(lambda name: _read(output, name, columns), files, _AT_ONCE):
            wanted = rows.filter(pc.equal(rows.column("reason"), reason.value)) if reason else rows
            if len(wanted):
                yield _manifest(name), wanted
            bar.update()


def _manifest(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(_SUFFIX)


def _read(output: Folder, name: str, columns: Sequence[str]) -> pa.Table:
    try:
        return read_rows(output, name, columns)
    except NotFoundError:  # deleted meanwhile
        return QUARANTINE.empty_table()
