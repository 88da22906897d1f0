"""What the records of snapshots say: the one of each snapshot, and LATEST.

It owns their keys, which programs of others read; it must not know where they lie.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

Format = Literal["parquet", "csv"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SnapshotFile(_Document):
    """A file of a snapshot.

    Attributes:
        name: within the snapshot.
        rows: in it.
        bytes: its size.
    """

    name: str
    rows: int
    bytes: int


class SnapshotDay(_Document):
    """A day of a snapshot.

    Attributes:
        date: of the partition of the table.
        source: fingerprint of the table's files that it was made from; the same files give the same.
        manifests: number of these files.
        latest_manifest: the last of them.
        files: what they became; none if they have no rows.
    """

    date: date
    source: str
    manifests: int
    latest_manifest: str
    files: tuple[SnapshotFile, ...]


class Snapshot(_Document):
    """The record of a complete snapshot.

    Attributes:
        snapshot: its id, and the name of its folder.
        output: canonical path of the output that it was made from.
        created_at: UTC.
        format, since, target_mb: as it was asked for.
        days: in order.
    """

    snapshot: str
    output: str
    created_at: datetime
    format: Format
    since: date | None
    target_mb: int
    days: tuple[SnapshotDay, ...]

    @property
    def files(self) -> list[SnapshotFile]:
        """Of all days."""
        return [file for day in self.days for file in day.files]

    @property
    def rows(self) -> int:
        """Of all files."""
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def manifests(self) -> int:
        """How many manifests' rows it holds."""
        return sum(day.manifests for day in self.days)

    @property
    def latest_manifest(self) -> str:
        """The last of them; whatever the stream commits later is in a later snapshot."""
        return max(day.latest_manifest for day in self.days)


class Latest(_Document):
    """What LATEST holds, for programs that read snapshots.

    Attributes:
        snapshot: the name of the folder to read.
        previous: the one before; None if there was none.
        format, rows, files, bytes, created_at: of the snapshot.
        manifests, latest_manifest: how many manifests' rows it holds, and the last of them.
        record: the file that lists all of it, and its SHA-256.
    """

    snapshot: str
    previous: str | None
    format: Format
    rows: int
    files: int
    bytes: int
    created_at: datetime
    manifests: int
    latest_manifest: str
    record: str
    record_sha256: str
