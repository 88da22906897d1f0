"""Patterns of names: their syntax in settings, and the default of `stream.ignore`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

_EXPRESSION = "re:"

_PICTURE = r"\.(?:jpe?g|jpe|jfif|png|gif|tiff?|webp|avif|hei[cf]|bmp|jp2|dng)"

IGNORED_BY_DEFAULT = (
    # Files of operating systems and viewers.
    *(".DS_Store", "._*", ".localized", ".apdisk", "Icon\r", "Thumbs.db", "ehthumbs*.db", "desktop.ini"),
    *(".directory", ".nomedia", ".picasa.ini", "Picasa.ini", ".*.icloud"),
    # Temporary files of editors, browsers and programs that copy.
    *("*.part", "*.partial", "*.filepart", "*.crdownload", "*.download", "*.opdownload", "*.aria2", "*.!sync", "*.!ut"),
    *("*.tmp", "*.temp", "*.swp", "*~", "~$*", ".~*", ".*.~*", ".goutputstream-*", ".in.*.", ".pureftpd-upload.*"),
    # Deleted files that are still open somewhere.
    *(".nfs0000*", ".fuse_hidden*", ".smbdelete*"),
    # Marks of Hadoop and Spark.
    *("_SUCCESS", "_committed_*", "_started_*", ".*.crc", "*._COPYING_", "*_$folder$"),
    # Random letters after a picture's name: rsync's (.IMG.jpg.Xa3kQ1) and those of AWS tools (IMG.jpg.6eF2Dd3a).
    # Words and dates are not random: .IMG.jpg.backup and IMG.jpg.20240131 are pictures.
    rf"re:\..+{_PICTURE}\.(?-i:(?![A-Z]?[a-z]*\Z|[A-Z]*\Z|[0-9]*\Z)[0-9A-Za-z]{{6}})",
    rf"re:.+{_PICTURE}\.(?![0-9]*\Z)[0-9a-f]{{8}}",
    # Folders: thumbnails, trash, snapshots, and the data of programs that synchronise.
    *("@eaDir/", ".@__thumb/", ".thumbnails/", ".AppleDouble/", "__MACOSX/", "lost+found/"),
    *(".Trash/", ".Trashes/", ".Trash-*/", "$RECYCLE.BIN/", "#recycle/", "@Recycle/"),
    *("#snapshot/", ".snapshot/", ".snapshots/", "@Recently-Snapshot/", ".zfs/", ".stversions/"),
    *("System Volume Information/", ".Spotlight-V100/", ".fseventsd/", ".TemporaryItems/", ".DocumentRevisions-V100/"),
    *(".stfolder/", ".sync/", ".dropbox.cache/", ".tmp.drivedownload/", ".tmp.driveupload/"),
    *("*.download/", ".~tmp~/", ".rsync-partial/", "_temporary/"),
)


DEFAULT = "default"
"""Stands for `IGNORED_BY_DEFAULT` among the patterns of `stream.ignore`."""


def _split(value: object) -> object:
    """The patterns in a text with commas between them, as flags and environment variables give it."""
    if isinstance(value, str):
        return [part for part in map(str.strip, value.split(",")) if part]
    return value


def _expand(patterns: tuple[str, ...]) -> tuple[str, ...]:
    at = patterns.index(DEFAULT) if DEFAULT in patterns else None
    return patterns if at is None else (*patterns[:at], *IGNORED_BY_DEFAULT, *patterns[at + 1 :])


def _check(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        if pattern.startswith(_EXPRESSION):
            _check_expression(pattern)
        elif not pattern.removesuffix("/"):
            raise ValueError(f"{pattern!r} is not a pattern; remove it")
        elif "/" in pattern[:-1]:
            raise ValueError(
                f"{pattern!r} has a slash inside; patterns are of single names: NAME for files, NAME/ for folders"
            )
    return patterns


def _check_expression(pattern: str) -> None:
    if pattern.endswith("/"):
        raise ValueError(f"{pattern!r} ends with a slash; names of folders are given as NAME/, without {_EXPRESSION}")
    try:
        re.compile(pattern.removeprefix(_EXPRESSION))
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


def _check_files(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        if pattern.endswith("/"):
            raise ValueError(f"{pattern!r} names folders; give names of files, like *.jpg")
    return patterns


_Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check)]

IgnorePatterns = Annotated[_Patterns, AfterValidator(_expand)]
"""Patterns of files, and of folders with a slash at the end; see `streaming.storage.names`."""

IncludePatterns = Annotated[_Patterns, AfterValidator(_check_files)]
"""Patterns of files only."""
