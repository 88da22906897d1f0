"""What every store speaks of: pictures that others own, and folders of small files that are ours.

It owns the words of the storage seam; it must not know of any store.
"""

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

    def is_settled(self, seconds: float) -> bool:
        """Whether it has not changed for so long, and so is no longer being written."""
        # A time in the future says nothing (a clock was set back); such a file must not wait for years.
        return self.changed_at is None or abs(time.time() - self.changed_at) >= seconds


def identity_of(path: str) -> bytes:
    """A 128-bit hash of a raw key.

    Among 50 million pictures the chance that any two share one is below 1e-23, so it stands for the key.
    """
    return hashlib.blake2b(path.encode(), digest_size=IDENTITY_BYTES).digest()


OnSkip = Callable[[str, str], None]
"""Told of what a listing leaves out: a path, and why."""


class Folder(Protocol):
    """A folder of small files of ours. Files appear whole or not at all."""

    @property
    def root(self) -> str:
        """Canonical path of the folder."""

    def path(self, name: str) -> str:
        """Canonical path of a file in it."""

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            NotFoundError: there is none of this name.
            StorageError: the store refused.
        """

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        """The content of a file, and the tag that `replace` wants to see unchanged."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def names(self, prefix: str) -> Iterator[str]:
        """The names of all files below a folder inside this one, each folder's in order; none if it is missing."""

    def create(self, name: str, data: bytes) -> str:
        """Write a new file, durably, and return its tag.

        Raises:
            AlreadyExistsError: there is one of this name; it is left as it is.
            StorageError: the store refused.
        """

    def replace(self, name: str, data: bytes, tag: str) -> str:
        """Replace the content of a file that is still what `tag` says, and return its new tag.

        Raises:
            ConflictError: it was changed or deleted since the tag was read.
            StorageError: the store refused.
        """

    def copy(self, name: str, to: str) -> None:
        """Give a file a second, new name, without reading it; what happens to the one leaves the other as it is.

        Raises:
            NotFoundError: there is no such file.
            StorageError: the store refused.
        """

    def delete(self, name: str) -> None:
        """Delete a file; one that does not exist is no error."""

    def delete_all(self, names: Sequence[str]) -> None:
        """Delete files, in no certain order; those that do not exist are no error."""

    def delete_tree(self, name: str) -> None:
        """Delete a folder inside this one with all that is in it; one that does not exist is no error."""

    def remove_leftovers(self) -> None:
        """Delete what writes that were killed have left."""
