"""Exports the table of features as an immutable snapshot of few, large, sorted files.

It may run beside the stream. The table is listed once, and the snapshot holds exactly the listed files' rows: a file of
the table appears whole and does not change. A snapshot is complete once its record exists, and LATEST moves after that.
A killed export therefore leaves either an incomplete snapshot, which the next export gives up and deletes, or a
complete one, which the next export makes the latest. An export that was paused or cut off for longer than its lease,
so that another took over, cannot create its record any more: it ends with an error, and publishes nothing.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from conf.errors import AppError, LeaseLostError, NotFoundError, OutputError, StorageError, TransientError
from conf.plural import plural
from conf.settings import ExportSettings, Settings
from conf.spark.progress import Progress
from streaming.export.answer import Exported, Planned
from streaming.export.compaction import Compacted, compact
from streaming.export.glue import check_shown, check_table, point_table
from streaming.export.models import AS_INGESTED, choose_model
from streaming.export.plan import ExportPlaces, ExportPlan, latest_snapshot, plan_export
from streaming.export.record import Snapshot, SnapshotDay, find_given_up_snapshot, latest, promote, read_snapshot
from streaming.export.rows import Target
from streaming.export.snapshots import (
    begin,
    complete_snapshot,
    drop_incomplete,
    drop_older,
    lost,
    working_on,
)
from streaming.lease.lease import Lease
from streaming.output.decision import FEATURES_TABLE
from streaming.output.lineage import Derivative, record
from streaming.storage.folder import Folder

_logger = logging.getLogger(__name__)

_COPIES_AT_ONCE = 16
_MIB = 2**20


def export(settings: Settings, progress: Progress) -> Exported:
    """Make a snapshot of the features that are committed now, unless the latest one holds the same.

    Raises:
        SettingsError: the places overlap, the snapshots are of another output, or it is not known which registry has
            the model.
        ModelError: there is no such model, or it was changed.
        OutputError: there is nothing to export, or the files that were written do not match those that were read.
        LeaseHeldError: another export works on the same snapshots.
        LeaseLostError: another program took over meanwhile; nothing was published.
        StorageError: a store or Glue refused; a snapshot that was made by then stays, and the next export goes on.
    """
    started = time.monotonic()
    places = ExportPlaces.of(settings)
    model = choose_model(settings, places.output, places.connection)
    options = settings.export
    check_table(options, places.to)
    latest_snapshot(places)  # first: a folder that is refused is none that forget has to erase in
    # Before the table is listed: a `forget` that reads the derivatives too early to find this one has already erased
    # its rows in the table.
    record(places.output, Derivative("export", places.to.root))
    with working_on(places.to, settings.stream.lease) as lease:
        _warn_of_files(drop_incomplete(places.to, lease))
        former = _read_former(places.to)
        plan = plan_export(places, options, model)
        if plan.up_to_date:
            newest = plan.up_to_date
            promote(places.to, newest.snapshot)
        else:
            newest = _make(settings, plan, lease, progress)
        if options.glue_table:  # before the snapshot that it may show is deleted
            point_table(options.glue_table, places.to, places.connection)
        is_less = former is not None and _is_less(places, newest, former, options)
        if options.keep and not is_less:
            lease.check()
            _warn_of_files(drop_older(places.to, options.keep))
    return Exported(newest, plan, time.monotonic() - started, options.glue_table)


def _read_former(to: Folder) -> Snapshot | None:
    """The snapshot that LATEST names; None if there is none, or its record was deleted or damaged by hand."""
    present = latest(to)
    with suppress(OutputError):
        return read_snapshot(to, present.snapshot) if present else None
    return None


def _warn_of_files(failure: TransientError | None) -> None:
    """Files that cannot be deleted now do not hold up an export."""
    if failure:
        _logger.warning("%s; the next export deletes what is left", failure)


def _is_less(places: ExportPlaces, newest: Snapshot, former: Snapshot, options: ExportSettings) -> bool:
    """Whether a former snapshot has what the newest one lacks, though nobody asked for that; warns if so."""
    if newest.left_out and _lacks(newest, former):
        _warn_of_rows(places, newest)
        return True
    if options.model is None and former.model and not newest.model:
        _logger.warning(
            "%s has each row in its own model, as %s has no embeddings any more, and earlier snapshots have all in one "
            "(%s); those are deleted by the next exports with --keep, not by this one",
            places.to.path(newest.snapshot),
            places.output.root,
            former.model,
        )
        return True
    return False


def _lacks(newest: Snapshot, former: Snapshot) -> bool:
    """Whether rows that a former snapshot has are left out of a newer one."""
    after = {day.date: day for day in newest.days}
    both = ((day, after[day.date]) for day in former.days if day.date in after)
    return any(then.left_out > day.left_out and then.rows < day.rows for day, then in both)


def _warn_of_rows(places: ExportPlaces, newest: Snapshot) -> None:
    _logger.warning(
        "%s leaves out %s of other models, without an embedding of the backbone of %s; earlier snapshots "
        "have some of these rows, and are deleted by the next exports with --keep, not by this one: to have all rows, "
        "export with --model %s",
        places.to.path(newest.snapshot),
        plural(newest.left_out, "row"),
        newest.model,
        AS_INGESTED,
    )


def _make(settings: Settings, plan: ExportPlan, lease: Lease, progress: Progress) -> Snapshot:
    """Write a snapshot, check its files, and make it the latest."""
    now, places = datetime.now(UTC), plan.places
    snapshot = begin(places.to, now, "".join(day.fingerprint for day in plan.write), lease)
    try:
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
            model=plan.model.version if plan.model else None,
        )
        check_written(places, made, compacted)
        if settings.export.glue_table:
            check_shown(places.to, made)  # before it is complete
        lease.check()
    except AppError as error:
        if isinstance(error, LeaseLostError) or find_given_up_snapshot(places.to, snapshot):
            _clear_away(places, snapshot)
            raise lost(places.to, snapshot) from error
        raise
    try:
        complete_snapshot(places.to, made)
    except LeaseLostError:
        _clear_away(places, snapshot)
        raise
    return made


def _clear_away(places: ExportPlaces, snapshot: str) -> None:
    """Delete the files of a snapshot that was given up: the program that did so may have missed the last ones."""
    with suppress(StorageError):  # the next export or forget deletes them
        places.to.delete_tree(snapshot)


def dry_run(settings: Settings) -> Planned | Exported:
    """The plan of `export`, or its answer if there is nothing new; changes nothing, and needs no Spark."""
    started = time.monotonic()
    places = ExportPlaces.of(settings)
    check_table(settings.export, places.to)
    plan = plan_export(places, settings.export, choose_model(settings, places.output, places.connection))
    return Exported(plan.up_to_date, plan, time.monotonic() - started) if plan.up_to_date else Planned.of(plan)


def _compact(settings: Settings, plan: ExportPlan, snapshot: str, progress: Progress) -> Compacted:
    if not plan.write:
        return Compacted({}, {})
    options, places = settings.export, plan.places
    target = Target(places.to.root, snapshot, options.format, options.target_mb * _MIB, places.connection, plan.model)
    return compact(settings, places.output.root, plan.sources, target, progress)


def _take_over(plan: ExportPlan, snapshot: str) -> None:
    """Give the files of unchanged days names in the new snapshot."""

    def copy(name: str) -> None:
        assert plan.base is not None
        try:
            plan.places.to.copy(f"{plan.base.snapshot}/{name}", f"{snapshot}/{name}")
        except NotFoundError as error:
            raise OutputError(
                f"{error}: somebody deleted {plan.base.snapshot} while its files were taken over; "
                "nothing was published; export again"
            ) from error

    with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
        for _ in pool.map(copy, plan.kept):
            pass


def _days(plan: ExportPlan, compacted: Compacted) -> tuple[SnapshotDay, ...]:
    written = (
        SnapshotDay(
            date=day.date,
            source=day.fingerprint,
            manifests=len(day.files),
            latest_manifest=day.latest_manifest,
            files=tuple(compacted.files.get(day.date, ())),
            left_out=compacted.counts[day.date].left_out if day.date in compacted.counts else 0,
        )
        for day in plan.write
    )
    return tuple(sorted((*plan.keep, *written), key=lambda day: day.date))


def check_written(places: ExportPlaces, made: Snapshot, compacted: Compacted) -> None:
    """Make sure that a snapshot holds each row that was read and not left out, and no other file.

    Raises:
        OutputError: rows are missing, or there are other files; or all rows were left out.
    """
    if made.left_out and not made.rows:
        raise OutputError(
            f"no row of {places.output.path(FEATURES_TABLE)} can be put into model {made.model}: none has an embedding "
            f"of its backbone; nothing was published; export with --model {AS_INGESTED}"
        )
    counted = {day: sum(file.rows for file in files) for day, files in compacted.files.items()}
    expected = {day: counts.rows for day, counts in compacted.counts.items() if counts.rows}
    if counted != expected or places.sizes(made.snapshot) != {file.name: file.bytes for file in made.files}:
        raise OutputError(
            f"{places.to.path(made.snapshot)} is not what was read from {places.output.path(FEATURES_TABLE)}: "
            f"somebody changed files there meanwhile; nothing was published; export again"
        )
