"""Pictures on a POSIX file system."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from conf.errors import InputError, NotFoundError
from streaming.storage.folder import OnSkip, StoredPicture
from streaming.storage.names import ALL_NAMES, IGNORED, Names

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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
    """A file as it is now; None if it is gone, is no file any more, or access is denied."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _stored(path, status) if stat.S_ISREG(status.st_mode) else None


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
