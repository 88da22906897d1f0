"""Pictures and folders on a POSIX file system."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from conf.errors import AlreadyExistsError, ConflictError, InputError, NotFoundError, StorageError, TransientError
from streaming.storage.folder import OnSkip, StoredPicture
from streaming.storage.names import ALL_NAMES, IGNORED, Names

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEMPORARY = "_tmp"
_LEFTOVER_SECONDS = 3600
_DELETIONS = 10
_LOCK = "lock"
_LOCK_SECONDS = 30
_LOCK_LOOK_SECONDS = 0.01
_NOT_UNICODE = "has a name that is not UTF-8, which no table can hold; rename it"


def list_pictures(folder: str, on_skip: OnSkip, names: Names = ALL_NAMES) -> Iterator[StoredPicture]:
    """All files below `folder`, in an order that is the same each time; links to folders are not followed.

    Raises:
        InputError: `folder` is missing, is not a folder, or cannot be read.
    """
    try:
        top = _scan(folder)
    except FileNotFoundError:
        raise InputError(f"{folder}: there is no such folder; check --input") from None
    except NotADirectoryError:
        raise InputError(f"{folder}: this is a file; --input takes the folder that holds the pictures") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot list it: {error.strerror}; grant read and execute on it") from error
    return _walk(top, on_skip, names)


def list_folder(folder: str, on_skip: OnSkip, names: Names = ALL_NAMES, *, deep: bool) -> Iterator[StoredPicture]:
    """The files in a folder of the input, and if `deep` those below it; a folder that cannot be read is left out."""
    try:
        entries = [entry for entry in _scan(folder) if deep or not _is_folder(entry)]
    except FileNotFoundError:  # gone since it was found
        return
    except OSError as error:
        on_skip(folder, f"cannot be read: {error.strerror}")
        return
    yield from _walk(entries, on_skip, names)


def subfolders(folder: str, on_skip: OnSkip) -> list[str]:
    """The folders directly inside one; none if it cannot be read."""
    try:
        found = [entry for entry in _scan(folder) if _is_folder(entry)]
    except OSError:
        return []
    for entry in found:
        if not _is_unicode(entry.name):
            on_skip(entry.path, _NOT_UNICODE)
    return [entry.path for entry in found if _is_unicode(entry.name)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; False if it cannot be examined, so that `_walk` leaves it out with the reason."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _scan(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _walk(top: list[os.DirEntry[str]], on_skip: OnSkip, names: Names) -> Iterator[StoredPicture]:
    """The files among entries and below them, depth first: without recursion, as folders may be nested very deep."""
    open_folders = [iter(top)]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
            continue
        try:
            if _is_folder(entry):
                if names.ignores_folder(entry.name):
                    on_skip(entry.path, IGNORED)
                elif not _is_unicode(entry.name):
                    on_skip(entry.path, _NOT_UNICODE)
                else:
                    open_folders.append(iter(_scan(entry.path)))
                continue
            if names.ignores_file(entry.name):
                on_skip(entry.path, IGNORED)
                continue
            status = entry.stat()
        except FileNotFoundError:  # gone since the folder was read, or a link to nothing
            continue
        except OSError as error:
            on_skip(entry.path, f"cannot be read: {error.strerror}")
            continue
        if why := _why_left_out(entry.name, status.st_mode, names):
            on_skip(entry.path, why)
        else:
            yield _stored(entry.path, status)


def _why_left_out(name: str, mode: int, names: Names) -> str | None:
    """Why an entry that is not a folder is not a picture; None if it is one."""
    if stat.S_ISDIR(mode):
        return IGNORED if names.ignores_folder(name) else "is a link to a folder, and these are not followed"
    if not stat.S_ISREG(mode):
        return "is neither a file nor a folder"
    if not _is_unicode(name):
        return _NOT_UNICODE
    return None if names.includes(name) else IGNORED


def _stored(path: str, status: os.stat_result) -> StoredPicture:
    return StoredPicture(path, status.st_size, _timestamp(status.st_mtime_ns), changed_at=status.st_ctime)


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
    """A file as it is now; None if it is gone or access is denied."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _stored(path, status)


def read_picture(path: str, limit: int) -> bytes:
    """The first `limit` + 1 bytes of a picture, so that the caller can tell a longer one.

    Raises:
        NotFoundError: the file is gone.
        OSError: anything else.
    """
    try:
        if stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.ENXIO, "it is not a regular file any more", path)  # a pipe would wait for its writer
        with open(path, "rb") as file:
            # Without a number, Python makes room for what is there, rather than for the limit.
            return file.read() if os.fstat(file.fileno()).st_size <= limit else file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFoundError(f"{path}: it was there when the folder was listed, and is gone") from error


def drop_from_cache(path: str) -> None:
    """Drop a file from the page cache, where the system can, so that the next read shows whether its disk works."""
    if sys.platform == "linux":
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


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

    def with_timeout(self, seconds: float) -> LocalFolder:
        return self

    def read(self, name: str) -> bytes:
        with self._explained(name, "read"):
            return (self._root / name).read_bytes()

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        data = self.read(name)
        return data, _tag(data)

    def read_end(self, name: str, length: int) -> bytes:
        with self._explained(name, "read"), open(self._root / name, "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - length, 0))
            return file.read()

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
        with self._explained(name, "write"), self._temporary(data) as temporary, self._lock():
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
            if not os.path.lexists(self._root / name):  # and perhaps no folder for a lock
                return
            with self._lock():  # or `replace`, which has just compared it, would bring it back
                (self._root / name).unlink(missing_ok=True)

    def delete_all(self, names: Sequence[str]) -> None:
        for name in names:
            self.delete(name)

    def delete_tree(self, name: str) -> None:
        with self._explained(name, "delete"):
            for attempt in range(1, _DELETIONS + 1):
                try:
                    shutil.rmtree(self._root / name)
                except FileNotFoundError:
                    return
                except OSError as error:  # workers of a killed program may still write a last file there
                    if error.errno != errno.ENOTEMPTY or attempt == _DELETIONS:
                        raise
                else:
                    return

    def remove_leftovers(self) -> None:
        # By the clock of the file system, which may be another machine's.
        with self._explained(_TEMPORARY, "write"), self._temporary(b"") as now:
            horizon = now.stat().st_mtime - _LEFTOVER_SECONDS  # a younger one may be of a process that is alive
        for name in self.names(_TEMPORARY):
            file = self._root / name
            with suppress(FileNotFoundError):
                if file.name != _LOCK and file.stat().st_mtime < horizon:
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
        """Make the comparison and the replacement atomic among the processes of this machine, and keep deletions out.

        Raises:
            TransientError: another process has had the lock all the time, which a healthy one needs for milliseconds.
        """
        folder = self._root / _TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / _LOCK, "ab") as file:
            give_up = time.monotonic() + _LOCK_SECONDS
            while not _is_locked(file):
                if time.monotonic() > give_up:
                    raise TransientError(
                        f"{file.name}: another process has kept this lock for {_LOCK_SECONDS} s: it is paused, or its "
                        "disk does not answer; find it with fuser, and let it go on (kill -CONT) or kill it"
                    )
                time.sleep(_LOCK_LOOK_SECONDS)
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


def _is_locked(file: IO[bytes]) -> bool:
    """Whether this process has the lock now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
