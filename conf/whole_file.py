"""Writes a file of the user's whole or not at all: who opens it sees the one before, or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def can_write(file: Path) -> bool:
    """Whether `write_whole` can write a file, as far as that can be told before: not whether its disk is full."""
    if os.path.exists(file) and not os.path.isfile(file):  # unlike those of Path, these never raise
        return not os.path.isdir(file) and os.access(file, os.W_OK)
    folder = os.path.dirname(os.path.realpath(file))
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def write_whole(file: Path, content: bytes) -> None:
    """Write a file; where it is a link, what that points to.

    Raises:
        OSError: it cannot be written; it is as it was before.
    """
    if file.exists() and not file.is_file():  # like /dev/stdout, in whose place no file may be put
        file.write_bytes(content)
        return
    path = Path(os.path.realpath(file))
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
