"""Folders of small files of ours on a POSIX file system."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from conf.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError, TransientError

_TEMPORARY = "_tmp"
_LEFTOVER_SECONDS = 3600
_DELETIONS = 10
_LOCK = "lock"
_LOCK_SECONDS = 30
_LOCK_LOOK_SECONDS = 0.01


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
                if prefix:
                    _refuse_links(found, folders)
                inside = found[len(str(self._root)) :].strip("/")  # not by Path, which takes longer than the listing
                for file in sorted(files):
                    yield f"{inside}/{file}" if inside else file

    def create(self, name: str, data: bytes) -> str:
        target = self._root / name
        with self._explained(name, "write"), self._temporary(data) as temporary:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(temporary, target)
            except FileExistsError:
                # A file server may have made the link and lost its answer, so that it was asked again: link(2).
                if os.stat(temporary).st_nlink == 1:
                    raise AlreadyExistsError(f"{target}: it exists already") from None
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise StorageError(
                        f"{target}: this file system has no hard links, by which a file appears whole or not at all; "
                        "choose a place on another"
                    ) from error
                if error.errno == errno.EXDEV:
                    raise StorageError(
                        f"{target.parent}: this folder is on another file system than {self._root}, to which files "
                        "cannot be moved whole; mount the folder above both"
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
            try:
                os.link(self._root / name, target)  # `replace` gives a name to another file and changes none
            except FileExistsError:
                if not os.path.samefile(self._root / name, target):  # else as in `create`
                    raise
            except OSError as error:
                if error.errno != errno.EMLINK:  # so many snapshots have it that it can have no other name
                    raise
                self.create(to, self.read(name))
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
            from conf.failures import passes  # noqa: PLC0415 - imports botocore, which no success needs

            kind = TransientError if passes(error) else StorageError
            raise kind(f"{path}: cannot {verb} it: {error.strerror}") from error


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse_links(folder: str, names: Sequence[str]) -> None:
    """Of folders in a folder of ours, whose files would be left out in silence, and be read by others.

    Raises:
        StorageError: one of them is a link.
    """
    for name in names:
        if os.path.islink(path := os.path.join(folder, name)):
            raise StorageError(
                f"{path} is a link to a folder, and these are not followed; move the folder back, or mount it there"
            )


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
