"""Forgetting in exports: every snapshot of a folder, the older ones too.

It owns how a snapshot's records follow its files; it must not know how rows are found and erased. Who exports holds the
folder's lease, and so does who forgets: what an export has taken from the table before it was swept is swept here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta

from conf.errors import LeaseHeldError
from streaming.erasure import File, Found
from streaming.features.stored import Folder
from streaming.lease import Holder, read_holder
from streaming.snapshot_record import SnapshotDay, SnapshotFile
from streaming.snapshots import read_snapshot, revise, snapshots, working_on

PLACE = "exports"
_WAIT_SECONDS = 0.5


@contextmanager
def working_alone(to: Folder, lease: timedelta, on_wait: Callable[[Holder], None]) -> Iterator[None]:
    """Hold the lease of a folder of snapshots, once whoever works there has finished.

    Args:
        to: the folder.
        lease: how long to hold the lease at most without renewing it.
        on_wait: told of the holder that is waited for, once.
    """
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(working_on(to, lease))
                break
            except LeaseHeldError:
                holder, _ = read_holder(to)
                if holder and not told:
                    on_wait(holder)
                    told = True
                time.sleep(_WAIT_SECONDS)
        yield


def export_files(to: Folder) -> list[File]:
    """All files with rows, of snapshots that are complete or not."""
    return [File(PLACE, to.root, name) for snapshot in snapshots(to) for name in snapshot.files]


def correct_records(to: Folder, measured: list[Found]) -> None:
    """Let the records and LATEST say what is in the files that were exchanged, of which no other row was taken."""
    present = {one.file.name: one for one in measured}
    for listed in snapshots(to):
        if listed.complete and present.keys() & {*listed.files}:
            snapshot = read_snapshot(to, listed.id)
            days = tuple(_corrected(day, listed.id, present) for day in snapshot.days)
            revise(to, snapshot.model_copy(update={"days": days}))


def _corrected(day: SnapshotDay, snapshot: str, present: Mapping[str, Found]) -> SnapshotDay:
    def of(file: SnapshotFile) -> SnapshotFile:
        found = present.get(f"{snapshot}/{file.name}")
        return SnapshotFile(name=file.name, rows=found.rows, bytes=found.size) if found else file

    return day.model_copy(update={"files": tuple(map(of, day.files))})
