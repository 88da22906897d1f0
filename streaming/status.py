"""How a stream is doing, from what it leaves in its output.

It owns these figures and how people read them; it must not know how they come about. It asks neither the stream nor
Spark, so that it answers at once, also for a stream that is dead.
"""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice

from conf.errors import NotFoundError
from streaming.batch_report import BatchReport, read_batch_report
from streaming.features.stored import Folder
from streaming.lease import read_holder
from streaming.manifests import read_manifest, written_at
from streaming.requests import request_ids
from streaming.sink import latest_files, unfinished

_RECENT = 20
_READERS = 16


@dataclass(frozen=True)
class Status:
    """How a stream is doing.

    Attributes:
        output: canonical path.
        stream: who holds the lease; None if no stream runs.
        died: a stream that did not give the lease back; None if there is none such.
        last_batch_at: when the latest micro-batch was committed; None before the first.
        model_version: of that micro-batch.
        model_refused: so many of the recent micro-batches kept the last good model: the current one cannot be used.
        drift: after it; None if its model cannot tell.
        recent: so many of the latest micro-batches are in the figures that follow.
        pictures: in them.
        quarantined: of them, by reason.
        featurized_per_second: pictures per second of work.
        arrived_per_second: pictures per second since the first of them was found.
        outstanding_manifests: found and not yet done.
        outstanding_pictures: in those.
        outstanding_bytes: of those.
        seconds_behind: since the oldest of those was found.
        requests: not yet taken in.
    """

    output: str
    stream: str | None
    died: str | None
    last_batch_at: datetime | None
    model_version: str | None
    model_refused: int
    drift: float | None
    recent: int
    pictures: int
    quarantined: dict[str, int]
    featurized_per_second: float
    arrived_per_second: float
    outstanding_manifests: int
    outstanding_pictures: int
    outstanding_bytes: int
    seconds_behind: float
    requests: int

    @property
    def _refusal(self) -> str:
        if not self.model_refused:
            return ""
        return f", kept by {self.model_refused} micro-batches because the current one cannot be used"

    def as_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self), default=datetime.isoformat)

    def as_text(self) -> str:
        """For people."""
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.quarantined.items())
        batches = "micro-batch" if self.recent == 1 else "micro-batches"
        last = f"{self.last_batch_at:%Y-%m-%d %H:%M:%S} UTC" if self.last_batch_at else "none yet"
        lines = [
            f"stream       {self.stream or (f'died: {self.died}' if self.died else 'none runs')}",
            f"last batch   {last}",
            f"outstanding  {self.outstanding_pictures:,} pictures, {self.outstanding_bytes / 2**20:,.1f} MiB",
            f"behind       {self.seconds_behind:.1f}s",
        ]
        if self.recent:
            lines += [
                f"recently     {self.pictures:,} pictures in {self.recent} {batches}",
                f"rate         {self.arrived_per_second:,.1f}/s arrived, {self.featurized_per_second:,.1f}/s at work",
                f"quarantined  {sum(self.quarantined.values()):,} of them{f' ({reasons})' if reasons else ''}",
                f"model        {self.model_version}{self._refusal}",
                f"drift        {'the model cannot tell' if self.drift is None else f'{self.drift:.2f}'}",
            ]
        if self.requests:
            lines.append(f"requests     {self.requests:,} not yet taken in")
        return "\n".join(lines)


def read_status(output: Folder, now: datetime) -> Status:
    """Look at an output that a stream has begun on."""
    holder, _ = read_holder(output)
    runs = holder is not None and not holder.is_gone(now)
    died = holder is not None and not runs and not holder.released
    reports = _recent_reports(output, now)
    last = reports[0] if reports else None
    outstanding = unfinished(output)
    with ThreadPoolExecutor(_READERS) as readers:
        waiting = list(readers.map(lambda manifest: _size(output, manifest), outstanding))
    pictures = sum(report.pictures for report in reports)
    return Status(
        output=output.root,
        stream=str(holder) if runs else None,
        died=str(holder) if died else None,
        last_batch_at=written_at(last.manifest) + timedelta(seconds=last.seconds_behind) if last else None,
        model_version=last.model_version if last else None,
        model_refused=sum(report.model_refused for report in reports),
        drift=last.drift if last else None,
        recent=len(reports),
        pictures=pictures,
        quarantined=dict(sum((report.quarantined for report in reports), Counter[str]()).most_common()),
        featurized_per_second=_rate(pictures, sum(report.seconds for report in reports)),
        arrived_per_second=_rate(pictures, (now - written_at(reports[-1].manifest)).total_seconds() if reports else 0),
        outstanding_manifests=len(outstanding),
        outstanding_pictures=sum(count for count, _ in waiting),
        outstanding_bytes=sum(length for _, length in waiting),
        seconds_behind=max((now - written_at(outstanding[0])).total_seconds(), 0) if outstanding else 0,
        requests=len(request_ids(output)),
    )


def _recent_reports(output: Folder, now: datetime) -> list[BatchReport]:
    reports = (read_batch_report(output.read(name)) for name in latest_files(output, now))
    return list(islice((report for report in reports if report), _RECENT))


def _size(output: Folder, manifest: str) -> tuple[int, int]:
    try:
        pictures = read_manifest(output, manifest)
    except NotFoundError:  # done and folded meanwhile
        return 0, 0
    return len(pictures), sum(picture.length for picture in pictures)


def _rate(pictures: int, seconds: float) -> float:
    return pictures / seconds if seconds > 0 else 0
