"""The folder of snapshots: begins, completes, reads and deletes them, and says which is the latest.

    TO/
      <snapshot>/...                   plain files of one format, and nothing else
      _snapshots/<snapshot>.json       the record of its files; without it a snapshot is not complete
      _snapshots/<snapshot>.unfinished the snapshot is being written or deleted, or was given up
      LATEST                           names the latest complete snapshot
      _lease                           the program that works here

Every change is made under the folder's lease: see `working_on`. A lease may fail (its holder was paused, or the store
delivers a write long after it was sent), so one write decides a snapshot: the creation of its record. A program that
takes over from an unfinished export first creates that record, as given up, and only then deletes files. Only one of
the two creations succeeds, and it decides. LATEST is replaced by compare-and-swap, always names a complete snapshot,
and never moves back to an earlier one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ValidationError

from conf.errors import (
    AlreadyExistsError,
    ConflictError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    OutputError,
)
from streaming.export.record import GivenUpSnapshot, Latest, Snapshot
from streaming.lease.lease import Lease, read_holder
from streaming.storage.documents import create_or_replace, read_document
from streaming.storage.folder import Folder

LATEST = "LATEST"
_RECORDS = "_snapshots"
_RECORD, _UNFINISHED = ".json", ".unfinished"
_ID = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{8}")
_TIME = "%Y%m%dT%H%M%S%fZ"
_KEEP_GIVEN_UP = timedelta(days=1)  # S3 refuses a request that is 15 minutes old
_UNFINISHED_TEXT = b"This snapshot is being written or deleted, or was given up.\n"


@dataclass(frozen=True)
class FoundSnapshot:
    """A snapshot in the folder, complete or not.

    Attributes:
        id: the name of its folder.
        complete: whether it has a record; if not, it is being written, or was left by a killed export.
        files: names within TO, without the record's.
    """

    id: str
    complete: bool
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Traces:
    """The files of a snapshot that a listing shows."""

    id: str
    names: frozenset[str]
    files: tuple[str, ...]

    @property
    def has_record(self) -> bool:
        return _record(self.id) in self.names

    @property
    def is_unfinished(self) -> bool:
        return _unfinished(self.id) in self.names


def begin(to: Folder, now: datetime, source: str, lease: Lease) -> str:
    """Announce a new snapshot, before its first file, and return its id: the time, and a hash of its source.

    Ids sort by time; an id is later than the latest even if a clock was set back.

    Raises:
        LeaseLostError: the lease was lost. Otherwise a program that takes over later finds the announcement.
    """
    there = [match[0] for name in to.names(_RECORDS) if (match := _ID.match(name.removeprefix(f"{_RECORDS}/")))]
    if there:
        latest_of_all = datetime.strptime(max(there).partition("-")[0], _TIME).replace(tzinfo=UTC)
        now = max(now, latest_of_all + timedelta(microseconds=1))
    snapshot = f"{now.astimezone(UTC):{_TIME}}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    to.create(_unfinished(snapshot), _UNFINISHED_TEXT)
    lease.check()
    return snapshot


@contextmanager
def working_on(to: Folder, duration: timedelta) -> Iterator[Lease]:
    """Hold the lease of a folder of snapshots; needed to write, complete or delete one.

    Raises:
        LeaseHeldError: another program works there.
    """
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(Lease(to, duration))
        except LeaseHeldError:
            holder, _ = read_holder(to)
            raise LeaseHeldError(
                f"{to.root}: another export or forget works here: {holder}; run this again when it has finished"
            ) from None
        yield lease


def snapshots(to: Folder) -> list[FoundSnapshot]:
    """All snapshots in a folder, complete or not, oldest first; without given-up ones that have no files left."""
    listed = [(one, _is_complete(to, one)) for one in _traces(to)]
    return [
        FoundSnapshot(one.id, complete, one.files)
        for one, complete in listed
        if complete or one.files or not one.has_record
    ]


def _traces(to: Folder) -> list[_Traces]:
    files: dict[str, list[str]] = {}
    records: dict[str, set[str]] = {}
    for name in to.names(""):
        first, _, rest = name.partition("/")
        snapshot = rest.removesuffix(_RECORD).removesuffix(_UNFINISHED) if first == _RECORDS else first
        if _ID.fullmatch(snapshot):
            files.setdefault(snapshot, [])
            if first == _RECORDS:
                records.setdefault(snapshot, set()).add(name)
            else:
                files[snapshot].append(name)
    return [_Traces(one, frozenset(records.get(one, ())), tuple(files[one])) for one in sorted(files)]


def _is_complete(to: Folder, traces: _Traces) -> bool:
    """Whether a snapshot is complete; reads its record only if that may say that the snapshot was given up."""
    if not traces.has_record or (traces.files and not traces.is_unfinished):
        return traces.has_record
    found = _read_record(to, traces.id)
    return found is not None and _given_up(found[0]) is None


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
    found = _read_record(to, snapshot)
    if found is None:
        raise _unreadable(to, snapshot, "there is no such file")
    if _given_up(found[0]):
        raise OutputError(f"{to.path(snapshot)} is not complete: another export or forget gave it up; export again")
    return found


def _decode(to: Folder, snapshot: str, data: bytes) -> Snapshot:
    try:
        return Snapshot.model_validate_json(data)
    except ValidationError as error:
        raise _unreadable(to, snapshot, error.errors()[0]["msg"]) from error


def _unreadable(to: Folder, snapshot: str, why: str) -> OutputError:
    return OutputError(
        f"{to.path(_record(snapshot))} cannot be read ({why}); "
        f"delete {to.path(snapshot)} and this file, and {LATEST} if it names it, and export again"
    )


def latest(to: Folder) -> Latest | None:
    """The content of LATEST; None if nothing was ever exported.

    Raises:
        OutputError: LATEST cannot be read.
    """
    return _read_latest(to)[0]


def complete_snapshot(to: Folder, snapshot: Snapshot) -> None:
    """Record a snapshot whose files are all there, and make it the latest.

    Raises:
        LeaseLostError: another program took over and gave the snapshot up; nothing was published.
        OutputError: LATEST names a later one already.
    """
    data = _encode(snapshot)
    try:
        to.create(_record(snapshot.snapshot), data)
    except AlreadyExistsError:
        # A record that is not given up is our own, whose answer was lost; a forget may have revised it since.
        found = _read_record(to, snapshot.snapshot)
        if found is None or _given_up(found[0]):
            raise lost(to, snapshot.snapshot) from None
    promote(to, snapshot.snapshot)
    to.delete(_unfinished(snapshot.snapshot))


def lost(to: Folder, snapshot: str) -> LeaseLostError:
    """The error of an export that lost its lease, or that another program took over from."""
    return LeaseLostError(
        f"{to.root}: lost the right to write here while {snapshot} was being written, as after a pause longer than "
        "the lease; nothing of it was published; export again"
    )


def is_given_up(to: Folder, snapshot: str) -> bool:
    """Whether another program took over from the export that writes this snapshot."""
    found = _read_record(to, snapshot)
    return found is not None and _given_up(found[0]) is not None


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
    name, data = _record(snapshot.snapshot), _encode(snapshot)
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
        record=_record(snapshot),
        record_sha256=hashlib.sha256(data).hexdigest(),
        model=described.model,
        left_out=described.left_out,
    )
    if following == present:
        return
    try:
        create_or_replace(to, LATEST, _encode(following), tag)
    except (AlreadyExistsError, ConflictError):
        raise OutputError(f"{to.path(LATEST)} was changed by somebody else meanwhile; export again") from None


def drop(to: Folder, snapshot: str) -> None:
    """Delete a snapshot; it need not exist.

    First its record is replaced by one that says that it was given up, so that a killed deletion leaves an incomplete
    snapshot, and a record that the store delivers late is refused.

    Raises:
        OutputError: it is the latest.
    """
    present = latest(to)
    if present and present.snapshot == snapshot:
        raise OutputError(f"{to.path(snapshot)} is what {LATEST} names; export again before it is deleted")
    if not _give_up(to, snapshot):
        data, tag = to.read_tagged(_record(snapshot))
        if _given_up(data) is None:
            to.replace(_record(snapshot), _mark(snapshot), tag)
    to.delete_tree(snapshot)


def drop_older(to: Folder, keep: int) -> None:
    """Delete all complete snapshots but the latest `keep`."""
    present = latest(to)  # not the last by name, if an earlier release met a clock that was set back
    for one in [one for one in snapshots(to) if one.complete][:-keep]:
        if present is None or one.id != present.snapshot:
            drop(to, one.id)


def drop_incomplete(to: Folder, lease: Lease) -> None:
    """Give up and delete the incomplete snapshots of killed exports.

    The record that says so is kept until no write of that export can arrive any more: for a day, and until LATEST names
    a later snapshot.

    Raises:
        LeaseLostError: another program works here now; snapshots that were given up stay so.
    """
    present = latest(to)
    over = datetime.now(UTC) - _KEEP_GIVEN_UP
    for one in _traces(to):
        lease.check()
        if not _is_complete(to, one) and (one.has_record or _give_up(to, one.id)):
            to.delete_tree(one.id)
            found = _read_record(to, one.id)
            mark = _given_up(found[0]) if found else None
            if mark and mark.given_up_at < over and present and present.snapshot > one.id:
                to.delete_all([_record(one.id), _unfinished(one.id)])
        elif one.is_unfinished:  # its export was killed just before it deleted this mark
            to.delete(_unfinished(one.id))
    to.remove_leftovers()


def _give_up(to: Folder, snapshot: str) -> bool:
    """Give a snapshot up, unless it is complete; returns whether it was given up, now or before."""
    with suppress(AlreadyExistsError):
        to.create(_unfinished(snapshot), _UNFINISHED_TEXT)
    try:
        to.create(_record(snapshot), _mark(snapshot))
    except AlreadyExistsError:
        return is_given_up(to, snapshot)
    return True


def _mark(snapshot: str) -> bytes:
    return _encode(GivenUpSnapshot(snapshot=snapshot, given_up_at=datetime.now(UTC)))


def _given_up(record: bytes) -> GivenUpSnapshot | None:
    """The content of a record of a snapshot that was given up; None for a record of a complete one."""
    try:
        return GivenUpSnapshot.model_validate_json(record)
    except ValidationError:
        return None


def _read_record(to: Folder, snapshot: str) -> tuple[bytes, str] | None:
    try:
        return to.read_tagged(_record(snapshot))
    except NotFoundError:
        return None


def _read_latest(to: Folder) -> tuple[Latest | None, str | None]:
    where = to.path(LATEST)
    return read_document(
        to, LATEST, Latest, lambda why: OutputError(f"{where} cannot be read ({why}); delete it and export again")
    )


def _record(snapshot: str) -> str:
    return f"{_RECORDS}/{snapshot}{_RECORD}"


def _unfinished(snapshot: str) -> str:
    return f"{_RECORDS}/{snapshot}{_UNFINISHED}"


def _encode(document: BaseModel) -> bytes:
    return document.model_dump_json(indent=2).encode()
