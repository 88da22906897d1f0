"""Forgetting in exports: lists the files of every snapshot in a folder, and corrects the records after the erasure.

Export and forget both hold the folder's lease, so rows that an export has read from the table before they were erased
there are erased here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta

from conf.errors import LeaseHeldError
from streaming.export.record import SnapshotDay, SnapshotFile, read_snapshot, read_tagged_snapshot, revise
from streaming.export.snapshots import snapshots, working_on
from streaming.forget.files import File, Found
from streaming.lease.holder import Holder, read_holder
from streaming.lease.lease import Lease
from streaming.output.rows import has_rows
from streaming.storage.folder import Folder

PLACE = "exports"
_WAIT_SECONDS = 0.5


@contextmanager
def working_alone(to: Folder, lease: timedelta, on_wait: Callable[[Holder], None]) -> Iterator[Lease]:
    """Wait until no other program works in a folder of snapshots, and hold its lease.

    `on_wait` is called once with the present holder, if there is one to wait for. If the lease is lost before the end,
    an export may have read rows that were not yet erased.
    """
    told = False
    while True:
        with ExitStack() as stack:
            try:
                held = stack.enter_context(working_on(to, lease))
            except LeaseHeldError:
                holder, _ = read_holder(to)
                if holder and not told:
                    on_wait(holder)
                    told = True
            else:
                yield held
                return
        time.sleep(_WAIT_SECONDS)


def export_files(to: Folder) -> list[File]:
    """All files with rows, of snapshots that are complete or not."""
    return [File(PLACE, to.root, name) for snapshot in snapshots(to) for name in snapshot.files if has_rows(name)]


def record_tags(to: Folder, names: Iterable[str]) -> dict[str, str]:
    """The tags of the records of complete snapshots that hold any of these files, by snapshot."""
    concerned = {name.partition("/")[0] for name in names}
    complete = (listed.id for listed in snapshots(to) if listed.complete)
    return {snapshot: read_tagged_snapshot(to, snapshot)[1] for snapshot in complete if snapshot in concerned}


def correct_records(to: Folder, measured: Iterable[Found], tags: Mapping[str, str]) -> None:
    """Update the records of snapshots, and LATEST, to the files that have lost rows, as they are now.

    The tags of the records must have been read before the files were measured.

    Raises:
        ConflictError: another process changed a record meanwhile.
    """
    present = {one.file.name: one for one in measured}
    for listed, tag in tags.items():
        snapshot = read_snapshot(to, listed)
        days = tuple(_corrected(day, listed, present) for day in snapshot.days)
        revise(to, snapshot.model_copy(update={"days": days}), tag)


def _corrected(day: SnapshotDay, snapshot: str, present: Mapping[str, Found]) -> SnapshotDay:
    def of(file: SnapshotFile) -> SnapshotFile:
        found = present.get(f"{snapshot}/{file.name}")
        return SnapshotFile(name=file.name, rows=found.rows, bytes=found.size) if found else file

    return day.model_copy(update={"files": tuple(map(of, day.files))})
