"""The denylist: salted hashes of the paths and prefixes that were forgotten and must never be taken in again.

It is stored in an output or a registry::

    _forgotten/
      salt                 random, of this output
      entries/<id>.json    the paths and prefixes of one run of `forget`

A path is hashed twice: first into its identity, which is all that a bundle stores of its pictures, then with keyed
BLAKE2b. A prefix is hashed with keyed BLAKE2b only. Keyed BLAKE2b is a MAC by construction, so it needs no HMAC around
it and takes a fifth of the time. Each entry carries its salt, so that entries of several outputs can share one
registry. A reader of the salt can test a guess of a path, as the stream does, but cannot read a path from a hash or
compare the hashes of two outputs.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conf.errors import AlreadyExistsError, NotFoundError, OutputError
from streaming.storage.folder import Folder, files_ending, identity_of

DENYLIST_FOLDER = "_forgotten"
_ENTRIES = f"{DENYLIST_FOLDER}/entries"
_SALT = f"{DENYLIST_FOLDER}/salt"
_SALT_BYTES = 32
_HASH_BYTES = 16
_SUFFIX = ".json"
_Hex = Annotated[str, Field(pattern="^([0-9a-f]{2})+$")]


class ForgottenPrefix(BaseModel):
    """All paths that begin alike: the salted hash of their first `length` bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    length: int
    hash: _Hex


class Entry(BaseModel):
    """The paths and prefixes of one run of `forget`.

    Attributes:
        id: a hash of the hashes, so that a repeated run has the same id.
        salt: hexadecimal, as all hashes are.
        asked_at: UTC.
        paths: of pictures, sorted.
        prefixes: of pictures, sorted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    id: str
    salt: _Hex
    asked_at: datetime
    paths: tuple[_Hex, ...]
    prefixes: tuple[ForgottenPrefix, ...]

    @classmethod
    def of(cls, paths: Iterable[str], prefixes: Iterable[str], salt: bytes, now: datetime) -> Entry:
        """An entry for raw keys and for prefixes of raw keys."""
        hashed = sorted({hash_path(path, salt) for path in paths})
        begins = sorted({(len(prefix.encode()), hash_prefix(prefix.encode(), salt)) for prefix in prefixes})
        content = "\n".join([digest.hex() for digest in hashed] + [f"{length} {d.hex()}" for length, d in begins])
        return cls(
            id=hashlib.sha256(content.encode()).hexdigest()[:32],
            salt=salt.hex(),
            asked_at=now,
            paths=tuple(digest.hex() for digest in hashed),
            prefixes=tuple(ForgottenPrefix(length=length, hash=digest.hex()) for length, digest in begins),
        )


def hash_path(path: str, salt: bytes) -> bytes:
    """The salted hash of a raw key."""
    return hash_identity(identity_of(path), salt)


def hash_identity(identity: bytes, salt: bytes) -> bytes:
    """The salted hash of the raw key with this identity."""
    return hashlib.blake2b(identity, key=salt, digest_size=_HASH_BYTES, person=b"identity").digest()


def hash_prefix(prefix: bytes, salt: bytes) -> bytes:
    """The salted hash of a prefix of raw keys, in UTF-8."""
    return hashlib.blake2b(prefix, key=salt, digest_size=_HASH_BYTES, person=b"prefix").digest()


class Denylist:
    """The pictures that some entries forbid; a value that may be sent to workers.

    Attributes:
        ids: of the entries.
    """

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.ids = frozenset(entry.id for entry in entries)
        self._paths: dict[bytes, set[bytes]] = defaultdict(set)
        self._prefixes: dict[tuple[bytes, int], set[bytes]] = defaultdict(set)
        for entry in entries:
            salt = bytes.fromhex(entry.salt)
            if entry.paths:
                self._paths[salt].update(map(bytes.fromhex, entry.paths))
            for prefix in entry.prefixes:
                self._prefixes[salt, prefix.length].add(bytes.fromhex(prefix.hash))

    @classmethod
    def load(cls, folder: Folder) -> Denylist:
        """The denylist of an output or a registry; empty if nothing was ever forgotten there."""
        return cls(list(read_entries(folder)))

    def __bool__(self) -> bool:
        return bool(self.ids)

    def is_forgotten(self, path: str) -> bool:
        """Whether the picture of this raw key must not be taken in."""
        return next(self.hits(path), None) is not None

    def hits(self, path: str) -> Iterator[bytes]:
        """The salted hashes that forbid a raw key: of the path, and of its prefixes."""
        if self._paths:
            yield from self.hits_of(identity_of(path))
        raw = path.encode() if self._prefixes else b""
        for (salt, length), hashes in self._prefixes.items():
            if len(raw) >= length and (digest := hash_prefix(raw[:length], salt)) in hashes:
                yield digest

    def holds_identity(self, identity: bytes) -> bool:
        """Whether the picture with this identity is forgotten by its path; an identity does not show the prefixes."""
        return next(self.hits_of(identity), None) is not None

    def hits_of(self, identity: bytes) -> Iterator[bytes]:
        """The salted hashes of forgotten paths that have this identity."""
        for salt, hashes in self._paths.items():
            if (digest := hash_identity(identity, salt)) in hashes:
                yield digest

    def mask(self, paths: pa.ChunkedArray) -> pa.BooleanArray:
        """True for each of `paths` that is not forgotten."""
        return pa.array([not self.is_forgotten(path) for path in paths.to_pylist()], pa.bool_())

    def without(self, rows: pa.Table) -> pa.Table:
        """The rows of a table whose `path` is not forgotten."""
        return rows.filter(self.mask(rows.column("path"))) if self.ids else rows


NOTHING = Denylist()
"""Forbids nothing."""


def read_salt(folder: Folder) -> bytes | None:
    """The salt of an output, if it has one yet."""
    try:
        return folder.read(_SALT)
    except NotFoundError:
        return None


def make_salt(folder: Folder) -> bytes:
    """The salt of an output, created with the first entry of its denylist."""
    with suppress(AlreadyExistsError):
        folder.create(_SALT, new_salt())
    return folder.read(_SALT)


def new_salt() -> bytes:
    """A random salt."""
    return secrets.token_bytes(_SALT_BYTES)


def add_entry(folder: Folder, entry: Entry) -> None:
    """Put an entry on a denylist, durably; an entry that exists is left as it is."""
    with suppress(AlreadyExistsError):
        folder.create(f"{_ENTRIES}/{entry.id}{_SUFFIX}", entry.model_dump_json(indent=2).encode())


def read_entries(folder: Folder) -> Iterator[Entry]:
    """The entries of a denylist.

    Raises:
        OutputError: an entry was changed by hand, or is of another release.
    """
    for name in files_ending(folder, _ENTRIES, _SUFFIX):
        try:
            yield Entry.model_validate_json(folder.read(name))
        except ValidationError as error:
            problem = error.errors()[0]
            raise OutputError(
                f"{folder.path(name)} cannot be read: {problem['msg']}; restore it, or use the version that wrote it; "
                "without it, forgotten pictures that are still in an input would be taken in again: if neither is "
                "possible, stop all streams, delete it, and run forget with the same list before the next start"
            ) from error


def add_missing(folder: Folder, entries: Sequence[Entry]) -> None:
    """Put those entries on a denylist that it does not have, with a single listing."""
    present = {name.rpartition("/")[2].removesuffix(_SUFFIX) for name in folder.names(_ENTRIES)}
    for entry in entries:
        if entry.id not in present:
            add_entry(folder, entry)
