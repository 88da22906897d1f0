"""The folder of snapshots: begins, completes, lists and deletes them.

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

from conf.errors import AlreadyExistsError, LeaseHeldError, LeaseLostError, OutputError, TransientError
from streaming.export.record import (
    LATEST,
    RECORD_SUFFIX,
    RECORDS_FOLDER,
    Snapshot,
    as_given_up,
    find_given_up_snapshot,
    find_record,
    given_up_record,
    latest,
    promote,
    record_file,
)
from streaming.lease.holder import read_holder
from streaming.lease.lease import Lease
from streaming.storage.folder import Folder

_UNFINISHED = ".unfinished"
_ID = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{8}")
_TIME = "%Y%m%dT%H%M%S%fZ"
_KEEP_GIVEN_UP = timedelta(days=1)  # S3 refuses a request that is 15 minutes old
_UNFINISHED_TEXT = b"This snapshot is being written or deleted, or was given up.\n"


@dataclass(frozen=True)
class FoundSnapshot:
    """A snapshot in the folder, complete or not.

    Attributes:
        id: the name of its folder.
        files: names within TO, without the record's.
        has_record: whether it is complete, or was given up.
        is_unfinished: whether it is being written or deleted, or was left so by a killed program.
        complete: whether it has a record that does not say that it was given up.
    """

    id: str
    files: tuple[str, ...]
    has_record: bool
    is_unfinished: bool
    complete: bool


def begin(to: Folder, now: datetime, source: str, lease: Lease) -> str:
    """Announce a new snapshot, before its first file, and return its id: the time, and a hash of its source.

    Ids sort by time; an id is later than the latest even if a clock was set back.

    Raises:
        LeaseLostError: the lease was lost. Otherwise a program that takes over later finds the announcement.
    """
    records = (name.removeprefix(f"{RECORDS_FOLDER}/") for name in to.names(RECORDS_FOLDER))
    there = [match[0] for record in records if (match := _ID.match(record))]
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
    return [one for one in _listed(to) if one.complete or one.files or not one.has_record]


def _listed(to: Folder) -> list[FoundSnapshot]:
    files: dict[str, list[str]] = {}
    ours: set[str] = set()
    for name in to.names(""):
        first, _, rest = name.partition("/")
        is_ours = first == RECORDS_FOLDER
        snapshot = rest.removesuffix(RECORD_SUFFIX).removesuffix(_UNFINISHED) if is_ours else first
        if _ID.fullmatch(snapshot):
            of_snapshot = files.setdefault(snapshot, [])
            if is_ours:
                ours.add(name)
            else:
                of_snapshot.append(name)
    return [_found(to, snapshot, tuple(files[snapshot]), ours) for snapshot in sorted(files)]


def _found(to: Folder, snapshot: str, files: tuple[str, ...], ours: set[str]) -> FoundSnapshot:
    """A snapshot with these files; its record is read only if it may say that the snapshot was given up."""
    has_record, is_unfinished = record_file(snapshot) in ours, _unfinished(snapshot) in ours
    complete = has_record
    if has_record and (is_unfinished or not files):
        record = find_record(to, snapshot)
        complete = record is not None and as_given_up(record[0]) is None
    return FoundSnapshot(snapshot, files, has_record, is_unfinished, complete)


def complete_snapshot(to: Folder, snapshot: Snapshot) -> None:
    """Record a snapshot whose files are all there, and make it the latest.

    Raises:
        LeaseLostError: another program took over and gave the snapshot up; nothing was published.
        OutputError: LATEST names a later one already.
    """
    data = snapshot.as_bytes()
    try:
        to.create(record_file(snapshot.snapshot), data)
    except AlreadyExistsError:
        # A record that is not given up is our own, whose answer was lost; a forget may have revised it since.
        found = find_record(to, snapshot.snapshot)
        if found is None or as_given_up(found[0]):
            raise lost(to, snapshot.snapshot) from None
    promote(to, snapshot.snapshot)
    to.delete(_unfinished(snapshot.snapshot))


def lost(to: Folder, snapshot: str) -> LeaseLostError:
    """The error of an export that lost its lease, or that another program took over from."""
    return LeaseLostError(
        f"{to.root}: lost the right to write here while {snapshot} was being written, as after a pause longer than "
        "the lease; nothing of it was published; export again"
    )


def drop(to: Folder, snapshot: str) -> TransientError | None:
    """Delete a snapshot; it need not exist. Returns why files are left, if some are.

    First its record is replaced by one that says that it was given up, so that a killed deletion leaves an incomplete
    snapshot, and a record that the store delivers late is refused.

    Raises:
        OutputError: it is the latest.
    """
    present = latest(to)
    if present and present.snapshot == snapshot:
        raise OutputError(f"{to.path(snapshot)} is what {LATEST} names; export again before it is deleted")
    if not _give_up(to, snapshot):
        data, tag = to.read_tagged(record_file(snapshot))
        if as_given_up(data) is None:
            to.replace(record_file(snapshot), given_up_record(snapshot), tag)
    return _delete_files(to, snapshot)


def drop_older(to: Folder, keep: int) -> TransientError | None:
    """Delete all complete snapshots but the latest `keep`; returns why files are left, if some are."""
    present = latest(to)  # not the last by name, if an earlier release met a clock that was set back
    failure = None
    for one in [one for one in snapshots(to) if one.complete][:-keep]:
        if present is None or one.id != present.snapshot:
            failure = drop(to, one.id) or failure
    return failure


def drop_incomplete(to: Folder, lease: Lease) -> TransientError | None:
    """Give up and delete the incomplete snapshots of killed exports.

    The record that says so is kept until no write of that export can arrive any more: for a day, and until LATEST names
    a later snapshot.

    Returns:
        Why files are left, if some are: on NFS, those that somebody reads on this machine stay. Their snapshots are
        given up, and the next call deletes them.

    Raises:
        LeaseLostError: another program works here now; snapshots that were given up stay so.
    """
    failure = None
    present = latest(to)
    over = datetime.now(UTC) - _KEEP_GIVEN_UP
    for one in _listed(to):
        lease.check()
        if not one.complete and (one.has_record or _give_up(to, one.id)):
            if left := _delete_files(to, one.id):
                failure = left
                continue
            mark = find_given_up_snapshot(to, one.id)
            if mark and mark.given_up_at < over and present and present.snapshot > one.id:
                to.delete_all([record_file(one.id), _unfinished(one.id)])
        elif one.is_unfinished:  # its export was killed just before it deleted this mark
            to.delete(_unfinished(one.id))
    to.remove_leftovers()
    return failure


def _delete_files(to: Folder, snapshot: str) -> TransientError | None:
    """Delete the files of a snapshot that was given up; returns why some are left, if they are."""
    try:
        to.delete_tree(snapshot)
    except TransientError as error:
        return error
    return None


def _give_up(to: Folder, snapshot: str) -> bool:
    """Give a snapshot up, unless it is complete; returns whether it was given up, now or before."""
    with suppress(AlreadyExistsError):
        to.create(_unfinished(snapshot), _UNFINISHED_TEXT)
    try:
        to.create(record_file(snapshot), given_up_record(snapshot))
    except AlreadyExistsError:
        return find_given_up_snapshot(to, snapshot) is not None
    return True


def _unfinished(snapshot: str) -> str:
    return f"{RECORDS_FOLDER}/{snapshot}{_UNFINISHED}"
