"""Where bytes live: pictures that others own, and folders of small files that are ours.

It owns the meaning of a URI, the listing and reading of pictures, and the two conditional writes that everything
durable here is built on: create if absent, and replace if unchanged. It must not know what the bytes mean.

A picture is named by its raw key: an absolute local path. A file of ours is named relative to the root of its folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from conf.errors import AlreadyExistsError, ConflictError, InputError, NotFoundError, SettingsError, StorageError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEMPORARY = "_tmp"
_LEFTOVER_SECONDS = 3600

IDENTITY_BYTES = 16


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture as its store lists it.

    Attributes:
        path: raw key.
        length: bytes.
        modification_time: the store's, in UTC with microseconds.
        etag: the store's tag of the content; None on a file system.
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


def identity_of(path: str) -> bytes:
    """A 128-bit hash of a raw key.

    Among 50 million pictures the chance that any two share one is below 1e-23, so it stands for the key.
    """
    return hashlib.blake2b(path.encode(), digest_size=IDENTITY_BYTES).digest()


OnSkip = Callable[[str, str], None]
"""Told of what a listing leaves out: a path, and why."""


def resolve(uri: str) -> str:
    """The canonical form of a URI: an absolute local path without a trailing slash.

    Raises:
        SettingsError: if the scheme is unknown.
    """
    if "://" not in uri and not uri.startswith("file:"):
        return os.path.abspath(os.path.expanduser(uri))
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise SettingsError(f"{uri!r} is no location that can be used; give a local path or a file:// URI")
    # "?" is a legal character of a file name, so what urlsplit took for a query belongs to the path.
    return os.path.abspath(unquote(f"{parts.path}?{parts.query}" if parts.query else parts.path))


def is_inside(path: str, folder: str) -> bool:
    """Whether the canonical `path` is `folder` or lies below it."""
    return os.path.commonpath([path, folder]) == folder


def check_outside(source: str, places: Mapping[str, str | None]) -> None:
    """Refuse places of ours, by setting, that lie inside the input, where they would be taken for pictures.

    Raises:
        SettingsError: naming the setting.
    """
    for key, place in places.items():
        if place and is_inside(place, source):
            raise SettingsError(f"{key}: {place} lies inside the input {source}; choose a place outside")


def spark_uri(path: str) -> str:
    """The form of a canonical path that Spark and Hadoop take, as it stands: Hadoop does not decode percent signs."""
    return f"file://{path}"


def list_pictures(folder: str, on_skip: OnSkip) -> Iterator[StoredPicture]:
    """All files below `folder`, in an order that is the same each time; links to folders are not followed.

    Raises:
        InputError: if `folder` is missing, is no folder, or cannot be read.
    """
    try:
        top = _scan(folder)
    except FileNotFoundError:
        raise InputError(f"{folder}: there is no such folder; check --input") from None
    except NotADirectoryError:
        raise InputError(f"{folder}: this is a file; --input takes the folder that holds the pictures") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot list it: {error.strerror}; grant read and execute on it") from error
    return _walk(top, on_skip)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _walk(entries: list[os.DirEntry[str]], on_skip: OnSkip) -> Iterator[StoredPicture]:
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(_scan(entry.path), on_skip)
                continue
            status = entry.stat()
        except FileNotFoundError:  # gone since the folder was read, or a link to nothing
            continue
        except OSError as error:
            on_skip(entry.path, f"cannot be read: {error.strerror}")
            continue
        if stat.S_ISDIR(status.st_mode):
            on_skip(entry.path, "is a link to a folder, and these are not followed")
        elif not stat.S_ISREG(status.st_mode):
            on_skip(entry.path, "is neither a file nor a folder")
        elif not _is_unicode(entry.name):
            on_skip(entry.path, "has a name that is not UTF-8, which no table can hold; rename it")
        else:
            yield StoredPicture(
                path=entry.path,
                length=status.st_size,
                modification_time=_timestamp(status.st_mtime_ns),
                changed_at=status.st_ctime,
            )


def _timestamp(nanoseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:  # some file systems hold any 64-bit time
        return datetime.max.replace(tzinfo=UTC)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_picture(path: str, limit: int) -> bytes:
    """The first `limit` + 1 bytes of a picture, so that a longer one shows itself.

    Raises:
        NotFoundError: there is no such file any more.
        PermissionError: reading it was refused.
        OSError: anything else, which may pass.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            # One read call returns a regular file of usual size whole; the loop is for what the kernel splits.
            chunks = [file.read(limit + 1)]
            size = len(chunks[0])
            while chunks[-1] and size <= limit:
                chunks.append(file.read(limit + 1 - size))
                size += len(chunks[-1])
            return b"".join(chunks)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise NotFoundError(f"{path}: it was there when the folder was listed, and is gone") from None


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

    def delete(self, name: str) -> None:
        """Delete a file; one that does not exist is no error."""

    def delete_tree(self, name: str) -> None:
        """Delete a folder inside this one with all that is in it; one that does not exist is no error."""

    def remove_leftovers(self) -> None:
        """Delete what writes that were killed have left."""


def open_folder(uri: str) -> Folder:
    """The folder at `uri`, which need not exist yet."""
    return LocalFolder(resolve(uri))


class LocalFolder:
    """A `Folder` on a POSIX file system.

    A new file is written under `_tmp/`, synced, and given its name by link(2), which fails if the name is taken.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    @property
    def root(self) -> str:
        return str(self._root)

    def path(self, name: str) -> str:
        return str(self._root / name)

    def read(self, name: str) -> bytes:
        with self._explained(name, "read"):
            return (self._root / name).read_bytes()

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        data = self.read(name)
        return data, _tag(data)

    def exists(self, name: str) -> bool:
        with self._explained(name, "look at"):
            try:
                (self._root / name).stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def names(self, prefix: str) -> Iterator[str]:
        with self._explained(prefix, "list"):
            for found, folders, files in os.walk(self._root / prefix, onerror=_raise_unless_missing):
                folders.sort()
                for file in sorted(files):
                    yield str(Path(found, file).relative_to(self._root))

    def create(self, name: str, data: bytes) -> str:
        target = self._root / name
        with self._explained(name, "write"), self._temporary(data) as temporary:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise AlreadyExistsError(f"{target}: it exists already") from None
            _sync_folder(target.parent)
        return _tag(data)

    def replace(self, name: str, data: bytes, tag: str) -> str:
        target = self._root / name
        with self._explained(name, "write"), self._lock(), self._temporary(data) as temporary:
            try:
                current = _tag(target.read_bytes())
            except FileNotFoundError:
                current = None
            if current != tag:
                raise ConflictError(f"{target}: somebody else has changed it meanwhile")
            os.replace(temporary, target)
            _sync_folder(target.parent)
        return _tag(data)

    def delete(self, name: str) -> None:
        with self._explained(name, "delete"):
            (self._root / name).unlink(missing_ok=True)

    def delete_tree(self, name: str) -> None:
        with self._explained(name, "delete"), suppress(FileNotFoundError):
            shutil.rmtree(self._root / name)

    def remove_leftovers(self) -> None:
        horizon = time.time() - _LEFTOVER_SECONDS  # a younger one may be of a process that is alive
        for name in self.names(_TEMPORARY):
            file = self._root / name
            with suppress(FileNotFoundError):
                if file.name != "lock" and file.stat().st_mtime < horizon:
                    file.unlink()

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        folder = self._root / _TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / uuid.uuid4().hex
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Makes the comparison and the replacement one step among the processes of this machine."""
        folder = self._root / _TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _explained(self, name: str, verb: str) -> Iterator[None]:
        path = self._root / name
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"{path}: there is no such file") from error
        except PermissionError as error:
            raise StorageError(f"{path}: may not {verb} it; grant this user access to {self._root}") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageError(f"{path}: the disk is full; free some space and start again") from error
            raise StorageError(f"{path}: cannot {verb} it: {error.strerror}") from error


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _sync_folder(folder: Path) -> None:
    """Makes a new name in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
