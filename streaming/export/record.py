"""The JSON documents of an export: the record of each snapshot, and LATEST. Programs of others read their keys.

`snapshots` describes when they are written.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from conf import __version__
from conf.errors import AlreadyExistsError, ConflictError, NotFoundError, OutputError
from streaming.storage.documents import create_or_replace, read_document
from streaming.storage.folder import Folder

LATEST = "LATEST"
RECORDS_FOLDER = "_snapshots"
RECORD_SUFFIX = ".json"

SnapshotFormat = Literal["parquet", "csv"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def as_bytes(self) -> bytes:
        """The content of its file."""
        return self.model_dump_json(indent=2).encode()


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

    @property
    def rows(self) -> int:
        """The number of rows in its files."""
        return sum(file.rows for file in self.files)


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


def record_file(snapshot: str) -> str:
    """The name of the file of a record."""
    return f"{RECORDS_FOLDER}/{snapshot}{RECORD_SUFFIX}"


def given_up_record(snapshot: str) -> bytes:
    """The content of the record of a snapshot that is given up now."""
    return GivenUpSnapshot(snapshot=snapshot, given_up_at=datetime.now(UTC)).as_bytes()


def as_given_up(record: bytes) -> GivenUpSnapshot | None:
    """The content of a record of a snapshot that was given up; None for a record of a complete one."""
    try:
        return GivenUpSnapshot.model_validate_json(record)
    except ValidationError:
        return None


def find_record(to: Folder, snapshot: str) -> tuple[bytes, str] | None:
    """The record of a snapshot, complete or given up, and its tag; None if it has none yet."""
    try:
        return to.read_tagged(record_file(snapshot))
    except NotFoundError:
        return None


def find_given_up_snapshot(to: Folder, snapshot: str) -> GivenUpSnapshot | None:
    """The record of a snapshot that was given up; None if it is complete, or nothing yet."""
    found = find_record(to, snapshot)
    return as_given_up(found[0]) if found else None


def read_snapshot(to: Folder, snapshot: str) -> Snapshot:
    """The record of a complete snapshot.

    Raises:
        OutputError: there is no record, or it cannot be read.
    """
    return read_tagged_snapshot(to, snapshot)[0]


def read_tagged_snapshot(to: Folder, snapshot: str) -> tuple[Snapshot, str]:
    """The record of a complete snapshot, and the tag that `revise` compares."""
    data, tag = _read_complete(to, snapshot)
    return _decode(to, snapshot, data), tag


def _read_complete(to: Folder, snapshot: str) -> tuple[bytes, str]:
    found = find_record(to, snapshot)
    if found is None:
        raise _unreadable(to, snapshot, "there is no such file")
    if as_given_up(found[0]):
        raise OutputError(f"{to.path(snapshot)} is not complete: another export or forget gave it up; export again")
    return found


def _decode(to: Folder, snapshot: str, data: bytes) -> Snapshot:
    try:
        return Snapshot.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            key = ".".join(map(str, first["loc"]))
            raise OutputError(
                f"{to.path(record_file(snapshot))} has {key!r}, which picture-features {__version__} does not know; "
                "use the version that wrote it or a later one, or export to a new folder"
            ) from error
        raise _unreadable(to, snapshot, first["msg"]) from error


def _unreadable(to: Folder, snapshot: str, why: str) -> OutputError:
    return OutputError(
        f"{to.path(record_file(snapshot))} cannot be read ({why}); "
        f"delete {to.path(snapshot)} and this file, and {LATEST} if it names it, and export again"
    )


def latest(to: Folder) -> Latest | None:
    """The content of LATEST; None if nothing was ever exported.

    Raises:
        OutputError: LATEST cannot be read.
    """
    return _read_latest(to)[0]


def _read_latest(to: Folder) -> tuple[Latest | None, str | None]:
    where = to.path(LATEST)
    return read_document(
        to, LATEST, Latest, lambda why: OutputError(f"{where} cannot be read ({why}); delete it and export again")
    )


def revise(to: Folder, snapshot: Snapshot, tag: str) -> None:
    """Replace the record of a snapshot, after rows were erased from its files. Repeating a killed call finishes it.

    Args:
        to: the folder.
        snapshot: the new record.
        tag: of the record before the files were measured, so that an older measurement does not replace a newer one.

    Raises:
        ConflictError: another process changed the record meanwhile.
        OutputError: another process changed LATEST meanwhile.
    """
    name, data = record_file(snapshot.snapshot), snapshot.as_bytes()
    present, present_tag = to.read_tagged(name)
    if present_tag != tag:
        raise ConflictError(f"{to.path(name)}: somebody else has changed it meanwhile; run this again")
    if present != data:
        to.replace(name, data, tag)
    newest = latest(to)
    if newest and newest.snapshot == snapshot.snapshot:
        promote(to, snapshot.snapshot)


def promote(to: Folder, snapshot: str) -> None:
    """Make LATEST name a complete snapshot and match its record; idempotent.

    Raises:
        OutputError: the snapshot was given up, LATEST names a later one, or another process changed LATEST meanwhile.
    """
    present, tag = _read_latest(to)
    if present and present.snapshot > snapshot:
        raise OutputError(
            f"{to.path(LATEST)} names a later snapshot, {present.snapshot}, of another export that took over "
            f"meanwhile; {to.path(snapshot)} is not the latest; export again"
        )
    # Read after the tag of LATEST: a later change of the record is followed by one of LATEST, and this write fails.
    data, _ = _read_complete(to, snapshot)
    described = _decode(to, snapshot, data)
    is_named = present is not None and present.snapshot == snapshot
    following = Latest(
        snapshot=snapshot,
        previous=(present.previous if is_named else present.snapshot) if present else None,
        format=described.format,
        rows=described.rows,
        files=len(described.files),
        bytes=described.bytes,
        created_at=described.created_at,
        manifests=described.manifests,
        latest_manifest=described.latest_manifest,
        record=record_file(snapshot),
        record_sha256=hashlib.sha256(data).hexdigest(),
        model=described.model,
        left_out=described.left_out,
    )
    if following == present:
        return
    try:
        create_or_replace(to, LATEST, following.as_bytes(), tag)
    except (AlreadyExistsError, ConflictError):
        raise OutputError(f"{to.path(LATEST)} was changed by somebody else meanwhile; export again") from None
