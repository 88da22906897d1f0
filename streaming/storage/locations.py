"""Resolves URIs to canonical paths, and chooses the store that a path belongs to.

A picture is named by its raw key: `s3://bucket/key` as S3 holds it, or an absolute local path. A file of ours is named
relative to the root of its folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from types import ModuleType

from conf.aws.connection import AWS_DEFAULTS, S3Connection
from conf.errors import SettingsError
from conf.uris import S3_ROOT, resolve
from streaming.storage import local
from streaming.storage.folder import Folder, OnSkip, StoredPicture
from streaming.storage.local_folder import LocalFolder
from streaming.storage.names import ALL_NAMES, IGNORED, Names

_OF_PATTERNS = re.compile(r"[\\*?\[\]{}]")


def resolve_key(uri: str) -> str:
    """The raw key of a picture, or a prefix of raw keys: as `resolve`, but with the slashes at the end.

    Raises:
        SettingsError: as `resolve`.
    """
    key = resolve(uri).rstrip("/") + uri[len(uri.rstrip("/")) :]
    return f"{key}/" if key.startswith(S3_ROOT) and "/" not in key.removeprefix(S3_ROOT) else key


def is_on_s3(path: str) -> bool:
    """Whether a canonical path is on S3."""
    return path.startswith(S3_ROOT)


def is_inside(path: str, folder: str) -> bool:
    """Whether the canonical `path` is `folder` or lies below it."""
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def check_outside(source: str, places: Mapping[str, str | None]) -> None:
    """Refuse places of ours, named by their settings, that lie inside the input: their files would be pictures.

    Raises:
        SettingsError: a place lies inside; the message names its setting.
    """
    for key, place in places.items():
        if place and (is_inside(place, source) or is_inside(_without_links(place), _without_links(source))):
            raise SettingsError(f"{key}: {place} lies inside the input {source}; choose a place outside")


def is_there(folder: Folder) -> bool:
    """Whether a folder can be looked into: a local one may be another machine's, or of a disk that is not mounted.

    One that is empty counts as missing, as a mount point without its disk is; on S3 an empty one is there.

    Raises:
        StorageError: it cannot be listed.
    """
    return next(folder.names(""), None) is not None or is_on_s3(folder.root)


def may_be_deleted(path: str) -> bool:
    """Whether a folder that is missing was deleted: what it lay in is there, and is no mount point without its disk."""
    if is_on_s3(path):
        return True
    try:
        with os.scandir(os.path.dirname(path)) as beside:
            return next(beside, None) is not None
    except OSError:
        return False


def _without_links(path: str) -> str:
    return path if is_on_s3(path) else os.path.realpath(path)


def spark_uri(path: str) -> str:
    """A canonical path in the form that Spark and Hadoop take; unescaped, as Hadoop does not decode percent signs."""
    return f"s3a://{path.removeprefix(S3_ROOT)}" if is_on_s3(path) else f"file://{path}"


def spark_glob(path: str) -> str:
    """`spark_uri` for places where Spark takes a pattern: Hadoop's wildcards are escaped.

    Raises:
        SettingsError: Hadoop cannot read this path as a pattern.
    """
    check_readable_by_spark(path)
    return _OF_PATTERNS.sub(r"\\\g<0>", spark_uri(path))


def check_readable_by_spark(path: str) -> None:
    """Refuse a canonical path that Spark cannot read from: in a pattern, Hadoop takes a colon for the end of a scheme.

    Raises:
        SettingsError: Spark cannot read it; the message names the folder.
    """
    if ":" in path.removeprefix(S3_ROOT) and _OF_PATTERNS.search(path):
        raise SettingsError(
            f"{path}: Spark cannot read from a folder with both a colon and one of []{{}}*?\\ in its path; "
            "rename it, or choose another"
        )


def list_pictures(
    source: str, on_skip: OnSkip, connection: S3Connection = AWS_DEFAULTS, names: Names = ALL_NAMES
) -> Iterator[StoredPicture]:
    """All files below a folder that `names` takes, in an order that is the same each time.

    Raises:
        InputError: a local folder is missing, is not a folder, or cannot be listed.
        StorageError: S3 refused.
    """
    if is_on_s3(source):
        return _named(_s3().list_pictures(source, connection), source, on_skip, names)
    return local.list_pictures(source, on_skip, names)


def list_folder(
    folder: str, on_skip: OnSkip, connection: S3Connection = AWS_DEFAULTS, names: Names = ALL_NAMES, *, deep: bool
) -> Iterator[StoredPicture]:
    """The files in a folder somewhere in the input, and if `deep` those below it, in the order of `list_pictures`.

    Raises:
        InputError: a local folder cannot be listed.
        StorageError: S3 refused.
    """
    if is_on_s3(folder):
        return _named(_s3().list_pictures(folder, connection, deep=deep), folder, on_skip, names)
    return local.list_folder(folder, on_skip, names, deep=deep)


def _named(pictures: Iterator[StoredPicture], folder: str, on_skip: OnSkip, names: Names) -> Iterator[StoredPicture]:
    """Those pictures below a folder on S3 that `names` takes."""
    start = len(folder) + 1
    for picture in pictures:
        if names.takes(picture.path[start:]):
            yield picture
        else:
            on_skip(picture.path, IGNORED)


def subfolders(
    folder: str, on_skip: OnSkip, connection: S3Connection = AWS_DEFAULTS, names: Names = ALL_NAMES
) -> list[str] | None:
    """The folders directly inside one, for `list_folder`; None if finding them takes more than a few requests.

    Raises:
        InputError: a local folder cannot be listed.
        StorageError: S3 refused.
    """
    found = _s3().subfolders(folder, connection) if is_on_s3(folder) else local.subfolders(folder, on_skip)
    if found is None:
        return None
    taken = [path for path in found if not names.ignores_folder(path.rpartition("/")[2])]
    for path in {*found} - {*taken}:
        on_skip(path, IGNORED)
    return taken


def read_picture(path: str, limit: int, connection: S3Connection = AWS_DEFAULTS) -> bytes:
    """The first `limit` + 1 bytes of a picture, so that the caller can tell a longer one.

    Raises:
        NotFoundError: the picture is gone.
        StorageError: S3 refused or failed; `conf.failures` classifies its errors.
        OSError: the operating system refused or failed.
    """
    return _s3().read_picture(path, limit, connection) if is_on_s3(path) else local.read_picture(path, limit)


def drop_from_cache(path: str) -> None:
    """Let the next read of a picture show whether its store can be read.

    Raises:
        OSError: a local file cannot be opened.
    """
    if not is_on_s3(path):
        local.drop_from_cache(path)


def look_up(path: str, connection: S3Connection = AWS_DEFAULTS) -> StoredPicture | None:
    """A picture as its store has it now; None if it is gone or access is denied.

    Raises:
        TransientError: the store fails at the moment.
    """
    return _s3().look_up(path, connection) if is_on_s3(path) else local.look_up(path)


def open_folder(uri: str, connection: S3Connection = AWS_DEFAULTS) -> Folder:
    """The folder at `uri`, which need not exist yet."""
    path = resolve(uri)
    return _s3().S3Folder(path, connection) if is_on_s3(path) else LocalFolder(path)


def _s3() -> ModuleType:
    """The module for S3, imported late: botocore takes 20 MB of memory that a worker on local files does not need."""
    from streaming.storage import s3  # noqa: PLC0415 - see above

    return s3
