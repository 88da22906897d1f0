"""Snapshots: what an export leaves in its folder, and which of them is the latest.

    TO/
      <snapshot>/...             plain files of one format, and nothing else
      _snapshots/<snapshot>.json what is in it; without this record a snapshot is not complete
      LATEST                     names the latest complete one
      _lease                     who works here

It owns these names; it must not know how a snapshot's files are made. Who changes anything here holds the folder's
lease: see `working_on`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ValidationError

from conf.errors import AlreadyExistsError, ConflictError, LeaseHeldError, NotFoundError, OutputError
from streaming.features.stored import Folder
from streaming.lease import Lease, read_holder
from streaming.snapshot_record import Latest, Snapshot

LATEST = "LATEST"
_RECORDS = "_snapshots"
_ID = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{8}")


@dataclass(frozen=True)
class Listed:
    """A snapshot that is there, whole or not.

    Attributes:
        id: the name of its folder.
        complete: whether it has a record. One without is being written, or was left by a killed export.
        files: names within TO, without the record's.
    """

    id: str
    complete: bool
    files: tuple[str, ...]


def new_id(now: datetime, source: str) -> str:
    """The id of a snapshot: when it was begun, and a hash of what it is made from. Ids sort by time."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S%fZ}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


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


def snapshots(to: Folder) -> list[Listed]:
    """All snapshots in a folder, complete or not, oldest first."""
    files: dict[str, list[str]] = {}
    complete = set()
    for name in to.names(""):
        first, _, rest = name.partition("/")
        if first == _RECORDS and _ID.fullmatch(rest.removesuffix(".json")):
            complete.add(rest.removesuffix(".json"))
        elif _ID.fullmatch(first):
            files.setdefault(first, []).append(name)
    return [Listed(one, one in complete, tuple(files.get(one, ()))) for one in sorted(complete | files.keys())]


def read_snapshot(to: Folder, snapshot: str) -> Snapshot:
    """The record of a complete snapshot.

    Raises:
        OutputError: there is none, or it cannot be read.
    """
    try:
        return Snapshot.model_validate_json(to.read(_record(snapshot)))
    except (NotFoundError, ValidationError) as error:
        raise OutputError(
            f"{to.path(_record(snapshot))} cannot be read ({_why(error)}); "
            f"delete {to.path(snapshot)} and this file, and {LATEST} if it names it, and export again"
        ) from error


def latest(to: Folder) -> Latest | None:
    """What LATEST says; None if nothing was ever exported.

    Raises:
        OutputError: it cannot be read.
    """
    return _read_latest(to)[0]


def complete(to: Folder, snapshot: Snapshot) -> None:
    """Record a snapshot whose files are all there, and make it the latest."""
    with suppress(AlreadyExistsError):
        to.create(_record(snapshot.snapshot), _encode(snapshot))
    promote(to, snapshot)


def revise(to: Folder, snapshot: Snapshot) -> None:
    """Record anew what a snapshot holds, after rows were erased from its files. A killed call is finished by the same.

    Raises:
        ConflictError: somebody else changed the records meanwhile.
    """
    name = _record(snapshot.snapshot)
    present, tag = to.read_tagged(name)
    if present != _encode(snapshot):
        to.replace(name, _encode(snapshot), tag)
    newest, latest_tag = _read_latest(to)
    if newest and latest_tag and newest.snapshot == snapshot.snapshot:
        digest = hashlib.sha256(_encode(snapshot)).hexdigest()
        changes = {"rows": snapshot.rows, "bytes": snapshot.bytes, "record_sha256": digest}
        to.replace(LATEST, _encode(newest.model_copy(update=changes)), latest_tag)


def promote(to: Folder, snapshot: Snapshot) -> None:
    """Make a complete snapshot the latest; one that is already changes nothing.

    Raises:
        OutputError: somebody else changed LATEST meanwhile.
    """
    present, tag = _read_latest(to)
    if present and present.snapshot == snapshot.snapshot:
        return
    following = Latest(
        snapshot=snapshot.snapshot,
        previous=present.snapshot if present else None,
        format=snapshot.format,
        rows=snapshot.rows,
        files=len(snapshot.files),
        bytes=snapshot.bytes,
        created_at=snapshot.created_at,
        manifests=snapshot.manifests,
        latest_manifest=snapshot.latest_manifest,
        record=_record(snapshot.snapshot),
        record_sha256=hashlib.sha256(_encode(snapshot)).hexdigest(),
    )
    try:
        if tag is None:
            to.create(LATEST, _encode(following))
        else:
            to.replace(LATEST, _encode(following), tag)
    except (AlreadyExistsError, ConflictError):
        raise OutputError(f"{to.path(LATEST)} was changed by somebody else meanwhile; export again") from None


def drop(to: Folder, snapshot: str) -> None:
    """Delete a snapshot with its record; one that is not there is no error.

    Raises:
        OutputError: it is the latest.
    """
    present = latest(to)
    if present and present.snapshot == snapshot:
        raise OutputError(f"{to.path(snapshot)} is what {LATEST} names; export again before it is deleted")
    to.delete(_record(snapshot))  # first, so that a killed deletion leaves an incomplete snapshot
    to.delete_tree(snapshot)


def drop_older(to: Folder, keep: int) -> None:
    """Delete all complete snapshots but the latest `keep`."""
    present = latest(to)  # older by its name where a clock was set back
    for one in [one for one in snapshots(to) if one.complete][:-keep]:
        if present is None or one.id != present.snapshot:
            drop(to, one.id)


def drop_incomplete(to: Folder) -> None:
    """Delete what killed exports have left."""
    for one in snapshots(to):
        if not one.complete:
            drop(to, one.id)
    to.remove_leftovers()


def _read_latest(to: Folder) -> tuple[Latest | None, str | None]:
    try:
        data, tag = to.read_tagged(LATEST)
    except NotFoundError:
        return None, None
    try:
        return Latest.model_validate_json(data), tag
    except ValidationError as error:
        raise OutputError(f"{to.path(LATEST)} cannot be read ({_why(error)}); delete it and export again") from error


def _record(snapshot: str) -> str:
    return f"{_RECORDS}/{snapshot}.json"


def _encode(document: BaseModel) -> bytes:
    return document.model_dump_json(indent=2).encode()


def _why(error: NotFoundError | ValidationError) -> str:
    return error.errors()[0]["msg"] if isinstance(error, ValidationError) else "there is no such file"
