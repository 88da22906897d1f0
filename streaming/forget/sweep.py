"""Finds and removes rows of forgotten pictures in many files. Running it again finds the rows that are left."""

from __future__ import annotations

from collections.abc import Sequence

from conf.errors import NotFoundError
from streaming.forget.files import File, Found
from streaming.forget.sweeper import Sweeper
from streaming.lease.denylist import Denylist
from streaming.output.rows import count_rows, erase_in, forgotten_beside, forgotten_paths
from streaming.storage.folder import Folder, identity_of


def find(sweeper: Sweeper, files: Sequence[File], denylist: Denylist, watched: Denylist) -> list[Found]:
    """The findings in those `files` that name forgotten or watched pictures; watched ones give no identities.

    Args:
        sweeper: visits the files.
        files: the files to read.
        denylist: the forgotten pictures.
        watched: the forgotten pictures, and those that are only looked for.
    """

    def look(folder: Folder, file: File) -> Found | None:
        try:
            data = folder.read(file.name)
        except NotFoundError:  # the stream has folded it or taken it in, and honoured the denylist
            return None
        paths, beside = forgotten_paths(file.name, data, watched), forgotten_beside(file.name, data, watched)
        if not (paths or beside):
            return None
        named = {*paths, *beside}
        forgotten = {path for path in named if denylist.is_forgotten(path)}
        hits = {hit for path in named for hit in watched.hits(path)}
        rows = sum(path in forgotten for path in paths)
        return Found(file, rows, len(data), sorted(map(identity_of, forgotten)), sorted(hits))

    return sweeper.visit(files, look, "files searched")


def erase(sweeper: Sweeper, files: Sequence[File], denylist: Denylist) -> None:
    """Replace each of `files` by one without the rows of forgotten pictures."""

    def exchange(folder: Folder, file: File) -> None:
        erase_in(folder, file.name, denylist)

    sweeper.visit(files, exchange, "files rewritten")


def measure_files(sweeper: Sweeper, files: Sequence[File]) -> list[Found]:
    """The number of rows and bytes in each of `files` now."""

    def look(folder: Folder, file: File) -> Found | None:
        try:
            data = folder.read(file.name)
        except NotFoundError:  # deleted by hand
            return None
        return Found(file, count_rows(file.name, data), len(data))

    return sweeper.visit(files, look, "files counted")
