"""The status of a stream, read from its output alone.

It asks neither the stream nor Spark, so it answers at once, also for a stream that is dead. Figures that were not
observed are unknown rather than 0, and no figure changes only because time passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from conf.answers import Answer, Row, command
from conf.errors import NotFoundError
from conf.plural import plural
from streaming.discovery.left_out import read_left_out
from streaming.operate.health import State, ago, has_looked, read_state
from streaming.output.batch_report import BatchReport, read_batch_report
from streaming.output.decision import FEATURES_TABLE, QUARANTINE_TABLE
from streaming.output.embeddings import EMBEDDINGS_TABLE
from streaming.output.manifests import read_manifest, written_at
from streaming.output.requests import request_ids
from streaming.output.tables import latest_files, unfinished
from streaming.storage.ahead import ahead, reads_at_once
from streaming.storage.folder import Folder
from streaming.storage.locations import is_on_s3
from streaming.storage.parquet import Size, read_footer, read_size

_RECENT = 20
_READERS = 32
_FILES_ON_S3 = 1_000  # one request each, so 0.0004 USD and some seconds
_FILES_ON_DISK = 20_000  # some seconds


@dataclass(frozen=True)
class Counted:
    """The rows of a table, by the footers of its files.

    Attributes:
        rows: the number of rows in the files that were counted.
        bytes: of these rows, as they are stored.
        files: the number of files that were counted, the latest ones.
        complete: whether these are all files.
        since: the first day of these files; None without files.
    """

    rows: int
    bytes: int
    files: int
    complete: bool
    since: str | None

    def __str__(self) -> str:
        if self.complete:
            return f"{self.rows:,}"
        return f"at least {self.rows:,} (the latest {plural(self.files, 'file')}, from {self.since} on)"


@dataclass(frozen=True)
class Status(Answer):
    """The status of a stream.

    Attributes:
        output: canonical path.
        asked_at: when it was asked for, UTC.
        state: of the stream.
        holder: the present or last holder of the lease; None if nobody ever held it.
        failure: the error that ended the stream.
        looked_at: when it last looked for new pictures; None if that is not known.
        last_batch_at: when the latest micro-batch was committed; None before the first.
        model_version: of that micro-batch.
        model_refused: how many recent micro-batches kept the last good model because the current one cannot be used.
        drift: after the latest micro-batch; None if its model has too few held-out pictures.
        recent: the number of latest micro-batches that the following figures cover.
        recent_since: when the first of them was found.
        pictures: in the recent micro-batches.
        quarantined: of these pictures, by reason.
        featurized_per_second: pictures per second of work; None if there were no recent micro-batches.
        arrived_per_second: from the first of their manifests to the last; None if there is only one.
        unfinished_manifests: found and not yet done.
        unfinished_pictures: in the unfinished manifests.
        unfinished_bytes: of the unfinished pictures.
        outstanding_pictures: as `unfinished_pictures`; None if the stream does not look, as more may have arrived.
        unsettled: new pictures that the last look left because they may still be being written; None as above.
        seconds_behind: since the oldest outstanding picture was found; None as above.
        requests: the number of requests not yet taken in.
        ignored: files and folders that discovery ignores by their names.
        left_out: entries of the input that cannot be read, or are not files.
        features: rows in the table features.
        embeddings: rows in the table embeddings.
        quarantine: rows in the table quarantine.
        page: that was written; None if there is none.
    """

    output: str
    asked_at: datetime
    state: State
    holder: str | None
    failure: str | None
    looked_at: datetime | None
    last_batch_at: datetime | None
    model_version: str | None
    model_refused: int
    drift: float | None
    recent: int
    recent_since: datetime | None
    pictures: int
    quarantined: dict[str, int]
    featurized_per_second: float | None
    arrived_per_second: float | None
    unfinished_manifests: int
    unfinished_pictures: int
    unfinished_bytes: int
    outstanding_pictures: int | None
    unsettled: int | None
    seconds_behind: float | None
    requests: int
    ignored: int
    left_out: int
    features: Counted
    embeddings: Counted
    quarantine: Counted
    page: str | None = None

    def rows(self) -> Iterator[Row]:
        """The status for people."""
        yield "stream", self._stream()
        yield "last batch", f"{self.last_batch_at:%Y-%m-%d %H:%M:%S} UTC" if self.last_batch_at else "none yet"
        yield "outstanding", self._outstanding()
        yield "behind", self._unknown() if self.seconds_behind is None else f"{self.seconds_behind:.1f}s"
        yield "rows", f"{self.features} in features, {self.quarantine} in quarantine"
        if self.embeddings.rows:
            yield "embeddings", f"{self.embeddings}; stored in {self.embeddings.bytes / 2**20:,.1f} MiB"
        if self.recent:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.quarantined.items())
            yield "recently", f"{plural(self.pictures, 'picture')} in {self._recently()}"
            yield "rate", f"{_rate(self.arrived_per_second)} arrived, {_rate(self.featurized_per_second)} at work"
            yield "quarantined", f"{sum(self.quarantined.values()):,} of them{f' ({reasons})' if reasons else ''}"
            yield "model", f"{self.model_version}{self._refusal()}"
            yield "drift", "unavailable (too few held-out pictures)" if self.drift is None else f"{self.drift:.2f}"
        if self.requests:
            yield "requests", f"{self.requests:,} not yet taken in"
        if self.ignored:
            yield "ignored", f"{self.ignored:,} by name (stream.ignore, stream.include)"
        if self.left_out:
            yield "left out", f"{self.left_out:,} that cannot be read or are not files; the log names them"
        if self.page:
            yield "page", self.page

    def next_step(self) -> str | None:
        """To see what is in quarantine, if something came there recently."""
        return command("streaming", "quarantine", "list", "--output", self.output) if self.quarantined else None

    def _stream(self) -> str:
        words = {
            "running": "{holder}",
            "stopped": "not running: stopped as asked, {holder}",
            "failed": "failed: {failure}; it was {holder}",
            "died": "died: {holder}",
            "expired": "died, or cannot reach the output: {holder}; its lease ran out",
            "none": "not running",
        }
        return words[self.state].format(holder=self.holder, failure=self.failure)

    def _unknown(self) -> str:
        return f"unknown: last look {ago(self.asked_at, self.looked_at)}" if self.looked_at else "unknown: no look yet"

    def _outstanding(self) -> str:
        found = f"{plural(self.unfinished_pictures, 'picture')}, {self.unfinished_bytes / 2**20:,.1f} MiB"
        if self.outstanding_pictures is None:
            return f"{self._unknown()}; {found} were found before and are not done"
        return f"{found}; {self.unsettled:,} more are still being written" if self.unsettled else found

    def _recently(self) -> str:
        batches = "1 micro-batch" if self.recent == 1 else f"{self.recent} micro-batches"
        if self.recent_since is None or self.last_batch_at is None:
            return batches
        last = ago(self.asked_at, self.last_batch_at)
        return f"{batches} from {self.recent_since:%Y-%m-%d %H:%M:%S} UTC on, the last {last}"

    def _refusal(self) -> str:
        if not self.model_refused:
            return ""
        return f", kept by {self.model_refused} micro-batches because the current one cannot be used"


def _rate(per_second: float | None) -> str:
    return "unknown" if per_second is None else f"{per_second:,.1f}/s"


def read_status(output: Folder, now: datetime) -> Status:
    """The status of an output that a stream has begun on."""
    state, holder = read_state(output, now)
    looked = holder.looked if holder else None
    is_known = holder is not None and has_looked(holder, now)
    reports = recent_reports(output, now, _RECENT)
    last = reports[0] if reports else None
    outstanding = unfinished(output)
    with ThreadPoolExecutor(_READERS) as readers:
        waiting = list(readers.map(lambda manifest: _size(output, manifest), outstanding))
    pictures = sum(report.pictures for report in reports)
    left_out = read_left_out(output)
    behind = max((now - written_at(outstanding[0])).total_seconds(), 0) if outstanding else 0
    return Status(
        output=output.root,
        asked_at=now,
        state=state,
        holder=str(holder) if holder else None,
        failure=holder.failure if holder else None,
        looked_at=looked.at if looked else None,
        last_batch_at=written_at(last.manifest) + timedelta(seconds=last.seconds_behind) if last else None,
        model_version=last.model_version if last else None,
        model_refused=sum(report.model_refused for report in reports),
        drift=last.drift if last else None,
        recent=len(reports),
        recent_since=written_at(reports[-1].manifest) if reports else None,
        pictures=pictures,
        quarantined=dict(sum((report.quarantined for report in reports), Counter[str]()).most_common()),
        featurized_per_second=_per_second(pictures, sum(report.seconds for report in reports)),
        arrived_per_second=_arrived(reports),
        unfinished_manifests=len(outstanding),
        unfinished_pictures=sum(count for count, _ in waiting),
        unfinished_bytes=sum(length for _, length in waiting),
        outstanding_pictures=sum(count for count, _ in waiting) if is_known else None,
        unsettled=looked.unsettled if looked and is_known else None,
        seconds_behind=behind if is_known else None,
        requests=len(request_ids(output)),
        ignored=left_out.ignored,
        left_out=left_out.unusable,
        features=count_table(output, FEATURES_TABLE, now),
        embeddings=count_table(output, EMBEDDINGS_TABLE, now),
        quarantine=count_table(output, QUARANTINE_TABLE, now),
    )


def count_table(output: Folder, table: str, now: datetime, most: int | None = None) -> Counted:
    """Count the rows of a table, in at most `most` of its latest files; by default, as many as take some seconds."""
    on_s3 = is_on_s3(output.root)
    limit = most or (_FILES_ON_S3 if on_s3 else _FILES_ON_DISK)
    names = list(islice(latest_files(output, now, table), limit + 1))
    counted = names[:limit]
    with ThreadPoolExecutor(_READERS if on_s3 else 1) as readers:  # on a disk, threads only hinder each other
        size = sum(readers.map(lambda name: _size_of(output, name), counted), Size())
    since = counted[-1].split("/")[1].removeprefix("date=") if counted else None
    return Counted(size.rows, size.bytes, len(counted), len(names) <= limit, since)


def _size_of(output: Folder, name: str) -> Size:
    try:
        return read_size(output, name)
    except NotFoundError:  # deleted meanwhile
        return Size()


def recent_reports(output: Folder, now: datetime, most: int) -> list[BatchReport]:
    """Of the latest micro-batches, at most so many; the latest first."""
    footers = ahead(lambda name: _footer(output, name), latest_files(output, now), reads_at_once(output.root))
    reports = (read_batch_report(footer) for _, footer in footers)
    return list(islice((report for report in reports if report), most))


def _footer(output: Folder, name: str) -> Mapping[bytes, bytes]:
    try:
        return read_footer(output, name)
    except NotFoundError:  # deleted meanwhile
        return {}


def _size(output: Folder, manifest: str) -> tuple[int, int]:
    try:
        pictures = read_manifest(output, manifest)
    except NotFoundError:  # done and folded meanwhile
        return 0, 0
    return len(pictures), sum(picture.length for picture in pictures)


def _arrived(reports: Sequence[BatchReport]) -> float | None:
    """Pictures per second from the oldest manifest to the latest, without those of the oldest, which arrived before."""
    if not reports:
        return None
    period = written_at(reports[0].manifest) - written_at(reports[-1].manifest)
    return _per_second(sum(report.pictures for report in reports[:-1]), period.total_seconds())


def _per_second(pictures: int, seconds: float) -> float | None:
    return pictures / seconds if seconds > 0 else None
