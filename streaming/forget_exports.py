"""Forgetting in exports: every snapshot of a folder, the older ones too.

It owns how a snapshot's records follow its files; it must not know how rows are found and erased. Who exports holds the
folder's lease, and so does who forgets: what an export has taken from the table before it was swept is swept here.
"""

from __future__ import annotations

from collections.abc import Mapping

from streaming.erasure import File, Found
from streaming.features.stored import Folder
from streaming.snapshots import SnapshotDay, SnapshotFile, read_snapshot, revise, snapshots

PLACE = "exports"


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
