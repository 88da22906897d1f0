"""Exports the table of features as an immutable snapshot of few, large, sorted files.

It owns the order of the steps and the checks before LATEST moves; it must not know what is to be written, nor how.

It reads beside a running stream. The table is listed once, and what was listed is what the snapshot holds: a file of
the table appears whole and stays as it is. A snapshot is complete when its record is there, and LATEST moves after
that. So a killed export leaves either what does not count, which the next one deletes, or a snapshot that the next one
makes the latest.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from conf.errors import OutputError
from conf.progress import Progress
from conf.session import start_session
from conf.settings import Settings
from streaming.compaction import Compacted, Target, compact
from streaming.derivatives import Derivative, record
from streaming.export_plan import Places, Plan, make_plan, nothing_new
from streaming.features.storage import is_on_s3
from streaming.lease import Lease
from streaming.sink import FEATURES_TABLE
from streaming.snapshot_record import Snapshot, SnapshotDay
from streaming.snapshots import complete, drop_incomplete, drop_older, new_id, promote, working_on

_COPIES_AT_ONCE = 16
_MIB = 2**20


@dataclass(frozen=True)
class Exported:
    """The outcome.

    Attributes:
        snapshot: the latest now.
        plan: what there was to do.
        seconds: that it took.
    """

    snapshot: Snapshot
    plan: Plan
    seconds: float

    def as_text(self) -> str:
        """A line for each figure."""
        snapshot, plan = self.snapshot, self.plan
        if plan.up_to_date:
            return nothing_new(plan.places, snapshot)
        kept = len(plan.kept)
        over = f", {kept:,} of them taken over from {plan.base.snapshot}" if plan.base and kept else ""
        return "\n".join(
            (
                f"snapshot     {plan.places.to.path(snapshot.snapshot)}",
                f"rows         {snapshot.rows:,} of {snapshot.manifests:,} manifests",
                f"up to        manifest {snapshot.latest_manifest}",
                f"files        {len(snapshot.files):,}{over}",
                f"bytes        {snapshot.bytes:,}",
                f"seconds      {self.seconds:.1f}",
            )
        )


def export(settings: Settings, progress: Progress) -> Exported:
    """Make a snapshot of the features that are committed now, unless the latest one holds just these.

    Raises:
        SettingsError: the places overlap, or the snapshots are of another output.
        OutputError: there is nothing to export, or what was written is not what was read.
        LeaseHeldError: another export works on the same snapshots.
    """
    started = time.monotonic()
    places = Places.of(settings)
    # Before the table is listed: who erases rows there and then asks for derivatives was first, or finds this one.
    record(places.output, Derivative("export", places.to.root))
    with working_on(places.to, settings.stream.lease) as lease:
        drop_incomplete(places.to)
        plan = make_plan(places, settings.export)
        if plan.up_to_date:
            newest = plan.up_to_date
            promote(places.to, newest)
        else:
            newest = _make(settings, plan, lease, progress)
        if settings.export.keep:
            drop_older(places.to, settings.export.keep)
    return Exported(newest, plan, time.monotonic() - started)


def _make(settings: Settings, plan: Plan, lease: Lease, progress: Progress) -> Snapshot:
    """Write a snapshot, look at what was written, and make it the latest."""
    now, places = datetime.now(UTC), plan.places
    snapshot = new_id(now, "".join(day.fingerprint for day in plan.write))
    compacted = _compact(settings, plan, snapshot, progress)
    _take_over(plan, snapshot)
    made = Snapshot(
        snapshot=snapshot,
        output=places.output.root,
        created_at=now,
        format=settings.export.format,
        since=settings.export.since,
        target_mb=settings.export.target_mb,
        days=_days(plan, compacted),
    )
    check_written(places, made, compacted)
    lease.check()
    complete(places.to, made)
    return made


def dry_run(settings: Settings) -> Plan:
    """What `export` would do. It changes nothing, and needs no Spark."""
    return make_plan(Places.of(settings), settings.export)


def _compact(settings: Settings, plan: Plan, snapshot: str, progress: Progress) -> Compacted:
    if not plan.write:
        return Compacted({}, {})
    options, output, to = settings.export, plan.places.output.root, plan.places.to.root
    on_s3 = is_on_s3(output) or is_on_s3(to)
    connection = plan.places.connection.resolved() if on_s3 else plan.places.connection
    target = Target(to, snapshot, options.format, options.target_mb * _MIB, connection)
    spark = start_session("picture-features export", settings, {})
    try:
        return compact(spark, output, plan.sources, target, progress)
    finally:
        spark.stop()


def _take_over(plan: Plan, snapshot: str) -> None:
    """Give the files of unchanged days names in the new snapshot."""

    def copy(name: str) -> None:
        assert plan.base is not None
        plan.places.to.copy(f"{plan.base.snapshot}/{name}", f"{snapshot}/{name}")

    with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
        for _ in pool.map(copy, plan.kept):
            pass


def _days(plan: Plan, compacted: Compacted) -> tuple[SnapshotDay, ...]:
    written = (
        SnapshotDay(
            date=day.date,
            source=day.fingerprint,
            manifests=len(day.files),
            latest_manifest=day.latest_manifest,
            files=tuple(compacted.files.get(day.date, ())),
        )
        for day in plan.write
    )
    return tuple(sorted((*plan.keep, *written), key=lambda day: day.date))


def check_written(places: Places, made: Snapshot, compacted: Compacted) -> None:
    """Make sure that a snapshot holds each row that was read, and no other file.

    Raises:
        OutputError: it does not.
    """
    counted = {day: sum(file.rows for file in files) for day, files in compacted.files.items()}
    if counted != compacted.rows or places.sizes(made.snapshot) != {file.name: file.bytes for file in made.files}:
        raise OutputError(
            f"{places.to.path(made.snapshot)} is not what was read from {places.output.path(FEATURES_TABLE)}: "
            f"somebody changed files there meanwhile; nothing was published; export again"
        )
