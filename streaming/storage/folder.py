"""The interface of all stores: pictures, which belong to others, and folders of small files, which are ours."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

IDENTITY_BYTES = 16


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture as its store lists it.

    Attributes:
        path: raw key.
        length: bytes.
        modification_time: the store's, in UTC with microseconds.
        etag: the store's tag of the content, without quotes; None on a file system.
        changed_at: when a file system last touched content or metadata, in seconds since the epoch; None on S3,
            where an object appears whole.
    """

    path: str
    length: int
    modification_time: datetime
    etag: str | None = None
    changed_at: float | None = None

    @property
    def identity(self) -> bytes:
        """See `identity_of`."""
        return identity_of(self.path)

    @property
    def appears_whole(self) -> bool:
        """Whether its store shows it only when it is complete."""
        return self.changed_at is None

    def is_of_the_past(self, seconds: float) -> bool:
        """Whether the file was not touched for at least `seconds`, by this machine's clock.

        A file from the future is not of the past: it may be one that is being written now, on a server whose clock is
        ahead. A modification time that is ahead proves nothing by itself, as any program can set it.
        """
        if self.changed_at is None:
            return True
        now = time.time()
        return now - self.changed_at > seconds and abs(now - self.modification_time.timestamp()) > seconds

    @property
    def state(self) -> bytes:
        """A hash of path, length and times, which changes when the file is touched."""
        said = f"{self.length} {self.modification_time.isoformat()} {self.changed_at!r} {self.path}"
        return hashlib.blake2b(said.encode(), digest_size=IDENTITY_BYTES).digest()


def identity_of(path: str) -> bytes:
    """A 128-bit hash of a raw key.

    Among 50 million pictures the chance that any two share one is below 1e-23, so it stands for the key.
    """
    return hashlib.blake2b(path.encode(), digest_size=IDENTITY_BYTES).digest()


OnSkip = Callable[[str, str], None]
"""Called for each entry that a listing leaves out, with its path and the reason."""


class Folder(Protocol):
    """A folder of small files of ours. Files appear whole or not at all."""

    @property
    def root(self) -> str:
        """Canonical path of the folder."""

    def path(self, name: str) -> str:
        """Canonical path of a file in it."""

    def with_timeout(self, seconds: float) -> Folder:
        """The same folder with a timeout and no retries for each request; a file system ignores the timeout."""

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            NotFoundError: there is none of this name.
            StorageError: the store refused.
        """

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        """The content of a file, and the tag that `replace` compares."""

    def read_end(self, name: str, length: int) -> bytes:
        """The last `length` bytes of a file, or all of a shorter one; raises as `read`."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def names(self, prefix: str) -> Iterator[str]:
        """The names of all files below a folder inside this one, each folder's in order; none if it is missing.

        Raises:
            StorageError: the store refused; below a named folder, one is a link, which is not followed.
        """

    def create(self, name: str, data: bytes) -> str:
        """Write a new file, durably, and return its tag.

        Raises:
            AlreadyExistsError: there is one of this name; it is left as it is.
            StorageError: the store refused.
        """

    def replace(self, name: str, data: bytes, tag: str) -> str:
        """Replace the content of a file whose tag is still `tag`, and return its new tag.

        Raises:
            ConflictError: the file was changed or deleted since the tag was read.
            StorageError: the store refused.
        """

    def copy(self, name: str, to: str) -> None:
        """Copy a file to a new name, without reading it; later changes of one do not affect the other.

        Raises:
            NotFoundError: there is no such file.
            StorageError: the store refused.
        """

    def delete(self, name: str) -> None:
        """Delete a file; it need not exist."""

    def delete_all(self, names: Sequence[str]) -> None:
        """Delete files, in any order; they need not exist."""

    def delete_tree(self, name: str) -> None:
        """Delete a folder inside this one with all its files; it need not exist."""

    def remove_leftovers(self) -> None:
        """Delete temporary files that killed writers have left."""


def files_ending(folder: Folder, prefix: str, suffix: str) -> Iterator[str]:
    """The names below a prefix that end so, in order; what file managers leave beside them is passed over.

    Such are `.DS_Store`, `Thumbs.db`, and the `._a.json` that macOS writes beside an `a.json` on other file systems.
    """
    for name in folder.names(prefix):
        if name.endswith(suffix) and not name.rpartition("/")[2].startswith("."):
            yield name
