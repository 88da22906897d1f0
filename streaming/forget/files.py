"""The files that `forget` looks into, and the application of a function to one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conf.errors import AppError, OutputError
from streaming.storage.folder import Folder


@dataclass(frozen=True)
class File:
    """A file that may hold rows of pictures.

    Attributes:
        place: the kind of file, in one word.
        root: canonical path of its folder.
        name: in that folder.
    """

    place: str
    root: str
    name: str


@dataclass(frozen=True)
class Found:
    """The findings in a file.

    Attributes:
        file: the file.
        rows: the number of rows of forgotten pictures; of `sweeper.measure_files`, of all rows.
        size: in bytes.
        identities: of the forgotten pictures.
        hits: the salted hashes that match paths in it.
    """

    file: File
    rows: int
    size: int
    identities: Sequence[bytes] = ()
    hits: Sequence[bytes] = ()


Work = Callable[[Folder, File], Found | None]
"""The work on one file of a folder; a value that may be sent to workers."""


def visit(work: Work, folder: Folder, file: File) -> Found | None:
    """Do the work on one file.

    Raises:
        OutputError: the file is damaged; the message names it.
    """
    try:
        return work(folder, file)
    except (AppError, MemoryError):
        raise
    except Exception as error:  # each format's reader has its own exceptions
        raise OutputError(
            f"{folder.path(file.name)} cannot be read: {error}; restore it from a copy, or delete it, "
            "which loses its rows, and forget again"
        ) from error
