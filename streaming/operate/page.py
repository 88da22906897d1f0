"""The page of a stream: how it is, its latest micro-batches and its latest pictures, as one HTML file for a browser.

What it says is in `status.html.j2`, how it looks in `status.css`. It reads the output alone, as `status` does, and the
few pictures that it shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import pyarrow as pa

from conf.answers import command
from conf.errors import NotFoundError
from conf.pages.file import write_page
from conf.settings import Settings
from streaming.features.thumbnails import Thumbnail, is_drawable, thumbnails
from streaming.lease.denylist import Denylist
from streaming.operate.status import Status, recent_reports
from streaming.output.batch_report import BatchReport
from streaming.output.decision import FEATURES_TABLE, QUARANTINE_TABLE
from streaming.output.manifests import written_at
from streaming.output.tables import latest_files
from streaming.storage.ahead import ahead
from streaming.storage.folder import Folder
from streaming.storage.parquet import read_rows

_BATCHES = 200
_PICTURES = 24
_QUARANTINED = 12
_FILES, _FILES_AHEAD = 50, 4  # the first one or two often do
_SIDE = 96
_SECONDS = 20.0
"""For all pictures of the page, so that a schedule can renew it."""
_FEATURES = ("path", "label", "predicted_label", "reconstruction_error", "sha256")
_REJECTED = ("path", "reason", "detail", "sha256")
_WIDTH, _HEIGHT = 600.0, 140.0
"""Of a chart, in units of its own."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch, and when it was committed."""

    at: datetime
    report: BatchReport


@dataclass(frozen=True)
class Point:
    """A value of a chart: its place, and what a pointer over it shows."""

    x: float
    y: float
    said: str


@dataclass(frozen=True)
class Chart:
    """Values over time.

    Attributes:
        name: for people.
        points: the earliest first; none if the figure is not known.
        top: the value at the upper edge; 0 is at the lower one.
        latest: the last value.
        line: the height of a line to compare with; None for none.
    """

    name: str
    points: Sequence[Point]
    top: str
    latest: str
    line: float | None = None


def write_status(settings: Settings, output: Folder, status: Status, file: str, *, with_thumbnails: bool) -> None:
    """Write the page of a stream.

    Args:
        settings: say how pictures are read, and above which drift the stream warns.
        output: of the stream.
        status: of it, as of now.
        file: to write.
        with_thumbnails: whether it shows pictures.

    Raises:
        OutputError: a file of the output is damaged.
        StorageError: the page cannot be written.
    """
    batches = _batches(output, status.asked_at)
    latest = _latest(output, FEATURES_TABLE, _FEATURES, _PICTURES, status.asked_at)
    rejected = _latest(output, QUARANTINE_TABLE, _REJECTED, _QUARANTINED, status.asked_at)
    shown: Mapping[str, Thumbnail] | None = None
    if with_thumbnails:
        drawable = [row for row in rejected if is_drawable(row["reason"])]
        shown = thumbnails(settings, ((row["path"], row["sha256"]) for row in (*latest, *drawable)), _SIDE, _SECONDS)
    denylist = Denylist.load(output)  # after all reading: what was forgotten meanwhile is not shown either
    write_page(
        file,
        __package__,
        "status.html.j2",
        status=status,
        rows=[row for row in status.rows() if not isinstance(row, str)],
        batches=batches,
        charts=_charts(batches, settings.stream.drift_threshold),
        reasons=sum((batch.report.quarantined for batch in batches), Counter[str]()).most_common(),
        pictures=sum(batch.report.pictures for batch in batches),
        latest=[row for row in latest if not denylist.is_forgotten(row["path"])],
        rejected=[row for row in rejected if not denylist.is_forgotten(row["path"])],
        shown=shown,
        steps=[*_steps(status, file, with_thumbnails=with_thumbnails)],
    )


def _batches(output: Folder, now: datetime) -> list[Batch]:
    """The latest micro-batches, the earliest first."""
    found = recent_reports(output, now, _BATCHES)
    return [Batch(written_at(one.manifest) + timedelta(seconds=one.seconds_behind), one) for one in reversed(found)]


def _latest(output: Folder, table: str, columns: Sequence[str], most: int, now: datetime) -> list[dict[str, Any]]:
    """The latest rows of a table that are not forgotten, of few files; the latest first."""
    denylist = Denylist.load(output)
    names = islice(latest_files(output, now, table), _FILES)
    found: list[dict[str, Any]] = []
    for _, rows in ahead(lambda name: _rows(output, name, columns), names, _FILES_AHEAD):
        left = denylist.without(rows.slice(max(len(rows) - 2 * most, 0))).to_pylist()
        found += [{**dict.fromkeys(columns), **row} for row in reversed(left)]
        if len(found) >= most:
            break
    return found[:most]


def _rows(output: Folder, name: str, columns: Sequence[str]) -> pa.Table:
    """These columns of a file; one that was written before a column came lacks it."""
    try:
        return read_rows(output, name, columns)
    except NotFoundError:  # deleted meanwhile
        return pa.table({"path": pa.array([], pa.string())})


def _charts(batches: Sequence[Batch], threshold: float) -> list[Chart]:
    """The figures of the micro-batches over time."""
    drifts = [batch for batch in batches if batch.report.drift is not None]
    return [
        _chart("Pictures of each micro-batch", batches, lambda one: one.pictures, "{:,.0f}"),
        _chart("Pictures per second of work", batches, lambda one: one.pictures / (one.seconds or 1), "{:,.1f}"),
        _chart("Seconds from found to committed", batches, lambda one: one.seconds_behind, "{:,.1f} s"),
        _chart("Drift", drifts, lambda one: one.drift or 0.0, "{:.2f}", threshold),
    ]


def _chart(
    name: str, batches: Sequence[Batch], value: Callable[[BatchReport], float], form: str, line: float | None = None
) -> Chart:
    values = [value(batch.report) for batch in batches]
    top = max([*values, line or 0.0]) or 1.0
    period = (batches[-1].at - batches[0].at).total_seconds() if batches else 0.0

    def place(batch: Batch, height: float) -> Point:
        share = (batch.at - batches[0].at).total_seconds() / period if period > 0 else 0.5
        said = f"{form.format(height)}, {batch.at:%d %B %H:%M:%S} UTC, model {batch.report.model_version}"
        return Point(round(share * _WIDTH, 1), round(_HEIGHT * (1 - height / top), 1), said)

    return Chart(
        name=name,
        points=[*map(place, batches, values)],
        top=form.format(top),
        latest=form.format(values[-1]) if values else "unavailable",
        line=None if line is None else round(_HEIGHT * (1 - line / top), 1),
    )


def _steps(status: Status, file: str, *, with_thumbnails: bool) -> Iterator[tuple[str, str]]:
    """What to do with the output, and the command for it."""
    output = ("--output", status.output)
    if status.quarantine.rows:
        yield "See why pictures are in quarantine", command("streaming", "quarantine", "list", *output)
        yield (
            "Retry those of a reason whose cause is fixed",
            command("streaming", "quarantine", "retry", *output, "--reason", "REASON"),
        )
    yield (
        "Find pictures like one",
        command("streaming", "similar", "PICTURE", "--table", status.output, "--html", "similar.html"),
    )
    yield (
        "Find pictures of which one is enough",
        command("streaming", "duplicates", "--table", status.output, "--html", "duplicates.html"),
    )
    yield "Put all rows into few files of one model", command("streaming", "export", *output, "--to", "EXPORTS")
    page = ("--html", file) if with_thumbnails else ("--html", file, "--no-thumbnails")
    yield "Renew this page, by hand or by a schedule", command("streaming", "status", *output, *page)
