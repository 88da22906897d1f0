"""Pictures and folders on a POSIX file system.

It owns what is particular to files: links, permissions, link(2); it must not know of any other store.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from conf.errors import AlreadyExistsError, ConflictError, InputError, NotFoundError, RefusedError, StorageError
from streaming.features.stored import OnSkip, StoredPicture

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEMPORARY = "_tmp"
_LEFTOVER_SECONDS = 3600


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


def list_folder(folder: str, on_skip: OnSkip, *, deep: bool) -> Iterator[StoredPicture]:
    """The files in a folder of the input, and if `deep` those below it; one that cannot be read is left out."""
    try:
        entries = _scan(folder)
    except FileNotFoundError:  # gone since it was found
        return
    except OSError as error:
        on_skip(folder, f"cannot be read: {error.strerror}")
        return
    yield from _walk(entries if deep else [entry for entry in entries if not _is_folder(entry)], on_skip)


def subfolders(folder: str) -> list[str]:
    """The folders directly inside one; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if _is_folder(entry))
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _walk(entries: list[os.DirEntry[str]], on_skip: OnSkip) -> Iterator[StoredPicture]:
    for entry in entries:
        try:
            if _is_folder(entry):
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


def look_up(path: str) -> StoredPicture | None:
    """A file as it is now; None if it is gone or may not be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return StoredPicture(path, status.st_size, _timestamp(status.st_mtime_ns), changed_at=status.st_ctime)


def read_picture(path: str, limit: int) -> bytes:
    """The first `limit` + 1 bytes of a picture, so that a longer one shows itself.

    Raises:
        NotFoundError: there is no such file any more.
        RefusedError: this user may not read it.
        OSError: anything else, which may pass.
    """
    try:
        with open(path, "rb") as file:
            # Without a number, Python makes room for what is there, rather than for the limit.
            return file.read() if os.fstat(file.fileno()).st_size <= limit else file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise NotFoundError(f"{path}: it was there when the folder was listed, and is gone") from None
    except PermissionError:
        raise RefusedError(f"{path}: reading it is not allowed to this user") from None


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
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP):
                    raise StorageError(
                        f"{target}: this file system has no hard links, by which a file appears whole or not at all; "
                        "choose a place on another"
                    ) from error
                raise
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

    def copy(self, name: str, to: str) -> None:
        target = self._root / to
        with self._explained(name, "link"):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(self._root / name, target)  # `replace` gives a name to another file and changes none
            _sync_folder(target.parent)

    def delete(self, name: str) -> None:
        with self._explained(name, "delete"):
            (self._root / name).unlink(missing_ok=True)

    def delete_all(self, names: Sequence[str]) -> None:
        for name in names:
            self.delete(name)

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
