"""Makes temporary folders that the system leaves alone as long as their process lives, which may be for years."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory

from conf.errors import StorageError


@contextmanager
def temporary_folder(prefix: str) -> Iterator[str]:
    """A folder for the context, in `TMPDIR` or where Python's temporary files are otherwise.

    Raises:
        StorageError: none can be made.
    """
    try:
        folder = TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    except OSError as error:
        # Without a file name, Python has tried several folders, and names them itself.
        parent = os.path.dirname(error.filename) if error.filename else "a temporary folder"
        raise StorageError(f"{parent}: {error.strerror}; free some space there, or set TMPDIR") from error
    with folder as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks
                # systemd deletes what is older than some days, but nothing in a folder that is locked: tmpfiles.d(5)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield name
        finally:
            os.close(descriptor)
