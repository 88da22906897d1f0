"""The JSON documents of an export: the record of each snapshot, and LATEST. Programs of others read their keys."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

SnapshotFormat = Literal["parquet", "csv"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SnapshotFile(_Document):
    """A file of a snapshot.

    Attributes:
        name: within the snapshot.
        rows: its number of rows.
        bytes: its size.
    """

    name: str
    rows: int
    bytes: int


class SnapshotDay(_Document):
    """A day of a snapshot.

    Attributes:
        date: of the partition of the table.
        source: fingerprint of the table's files that the day was made from.
        manifests: number of these files.
        latest_manifest: the latest of their manifests.
        files: the files of the snapshot; none if the table's have no rows.
        left_out: number of rows that could not be put into the model of the snapshot.
    """

    date: date
    source: str
    manifests: int
    latest_manifest: str
    files: tuple[SnapshotFile, ...]
    left_out: int = 0


class Snapshot(_Document):
    """The record of a complete snapshot.

    Attributes:
        snapshot: its id, and the name of its folder.
        output: canonical path of the output that it was made from.
        created_at: UTC.
        format, since, target_mb: the options of the export.
        model: the version of the model of all rows; None if each is of the model that it was ingested with.
        days: in order.
    """

    snapshot: str
    output: str
    created_at: datetime
    format: SnapshotFormat
    since: date | None
    target_mb: int
    model: str | None = None
    days: tuple[SnapshotDay, ...]

    @property
    def files(self) -> list[SnapshotFile]:
        """The files of all days."""
        return [file for day in self.days for file in day.files]

    @property
    def rows(self) -> int:
        """The number of rows in all files."""
        return sum(file.rows for file in self.files)

    @property
    def left_out(self) -> int:
        """The number of rows of the table that are in no file, as they could not be put into the model."""
        return sum(day.left_out for day in self.days)

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def manifests(self) -> int:
        """The number of manifests whose rows it holds."""
        return sum(day.manifests for day in self.days)

    @property
    def latest_manifest(self) -> str:
        """The latest of these manifests; rows that the stream commits later are in a later snapshot."""
        return max(day.latest_manifest for day in self.days)


class GivenUpSnapshot(_Document):
    """The document in the place of a record, if the snapshot is not, or no longer, complete.

    Attributes:
        snapshot: its id.
        given_up_at: UTC.
    """

    snapshot: str
    given_up_at: datetime


class Latest(_Document):
    """The content of LATEST, for programs that read snapshots.

    Attributes:
        snapshot: the name of the folder to read.
        previous: the one before; None if there was none.
        format, rows, files, bytes, created_at: of the snapshot.
        manifests, latest_manifest: how many manifests' rows it holds, and the last of them.
        record: the name and the SHA-256 of the snapshot's record, which lists all its files.
        model, left_out: of the snapshot.
    """

    snapshot: str
    previous: str | None
    format: SnapshotFormat
    rows: int
    files: int
    bytes: int
    created_at: datetime
    manifests: int
    latest_manifest: str
    record: str
    record_sha256: str
    model: str | None = None
    left_out: int = 0
