"""The storage seam: which store a path belongs to.

It owns the meaning of a URI and the choice of the store; it must not know how a store works.

A picture is named by its raw key: `s3://bucket/key` as S3 holds it, or an absolute local path. A file of ours is named
relative to the root of its folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from urllib.parse import unquote, urlsplit

from conf.errors import SettingsError
from conf.s3 import AWS_DEFAULTS, S3Connection
from streaming.features import local
from streaming.features.stored import Folder, OnSkip, StoredPicture

_S3 = "s3://"
_S3_SCHEMES = ("s3", "s3a", "s3n")


def resolve(uri: str) -> str:
    """The canonical form of a URI: `s3://bucket/prefix` or an absolute local path, without a trailing slash.

    A key is taken as it stands: S3 knows no percent-encoding. A `file:` URI is decoded.

    Raises:
        SettingsError: if the scheme is unknown, or an S3 URI has no bucket.
    """
    scheme, colon, rest = uri.partition("://")
    if colon and scheme.lower() in _S3_SCHEMES:
        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise SettingsError(f"{uri!r} names no bucket; give s3a://BUCKET/PREFIX")
        return f"{_S3}{bucket}/{prefix}".rstrip("/")
    if not colon and not uri.startswith("file:"):
        return os.path.abspath(os.path.expanduser(uri))
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise SettingsError(
            f"{uri!r} is no location that can be used; give a local path, a file:// URI or an s3a:// URI"
        )
    # "?" is a legal character of a file name, so what urlsplit took for a query belongs to the path.
    return os.path.abspath(unquote(f"{parts.path}?{parts.query}" if parts.query else parts.path))


def resolve_key(uri: str) -> str:
    """The raw key of a picture, or what raw keys begin with: as `resolve`, with the slashes at its end.

    Raises:
        SettingsError: as `resolve`.
    """
    key = resolve(uri).rstrip("/") + uri[len(uri.rstrip("/")) :]
    return f"{key}/" if key.startswith(_S3) and "/" not in key.removeprefix(_S3) else key


def is_on_s3(path: str) -> bool:
    """Whether a canonical path is on S3."""
    return path.startswith(_S3)


def is_inside(path: str, folder: str) -> bool:
    """Whether the canonical `path` is `folder` or lies below it."""
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def check_outside(source: str, places: Mapping[str, str | None]) -> None:
    """Refuse places of ours, by setting, that lie inside the input, where they would be taken for pictures.

    Raises:
        SettingsError: naming the setting.
    """
    for key, place in places.items():
        if place and is_inside(place, source):
            raise SettingsError(f"{key}: {place} lies inside the input {source}; choose a place outside")


def spark_uri(path: str) -> str:
    """The form of a canonical path that Spark and Hadoop take, as it stands: Hadoop does not decode percent signs."""
    return f"s3a://{path.removeprefix(_S3)}" if is_on_s3(path) else f"file://{path}"


def spark_glob(path: str) -> str:
    """The same where Spark takes a pattern: the characters escaped that Hadoop takes for one."""
    return re.sub(r"([\\*?\[\]{}])", r"\\\1", spark_uri(path))


def list_pictures(source: str, on_skip: OnSkip, connection: S3Connection = AWS_DEFAULTS) -> Iterator[StoredPicture]:
    """All files below a folder, in an order that is the same each time.

    Raises:
        InputError: a local folder is missing, is no folder, or cannot be listed.
        StorageError: S3 refused.
    """
    return _s3().list_pictures(source, connection) if is_on_s3(source) else local.list_pictures(source, on_skip)


def list_folder(
    folder: str, on_skip: OnSkip, connection: S3Connection = AWS_DEFAULTS, *, deep: bool
) -> Iterator[StoredPicture]:
    """The files in a folder somewhere in the input, and if `deep` those below it, in the order of `list_pictures`.

    Raises:
        InputError: a local folder cannot be listed.
        StorageError: S3 refused.
    """
    if is_on_s3(folder):
        pictures: Iterator[StoredPicture] = _s3().list_pictures(folder, connection, deep=deep)
        return pictures
    return local.list_folder(folder, on_skip, deep=deep)


def subfolders(folder: str, connection: S3Connection = AWS_DEFAULTS) -> list[str] | None:
    """The folders directly inside one, for `list_folder`; None if it holds too much to tell at little cost.

    Raises:
        InputError: a local folder cannot be listed.
        StorageError: S3 refused.
    """
    return _s3().subfolders(folder, connection) if is_on_s3(folder) else local.subfolders(folder)


def read_picture(path: str, limit: int, connection: S3Connection = AWS_DEFAULTS) -> bytes:
    """The first `limit` + 1 bytes of a picture, so that a longer one shows itself.

    Raises:
        NotFoundError: there is no such picture any more.
        RefusedError: it is there, and cannot be read now.
        OSError, TransientError: anything else, which may pass.
    """
    return _s3().read_picture(path, limit, connection) if is_on_s3(path) else local.read_picture(path, limit)


def look_up(path: str, connection: S3Connection = AWS_DEFAULTS) -> StoredPicture | None:
    """A picture as its store has it now; None if it is gone or may not be looked at.

    Raises:
        TransientError: the store fails now.
    """
    return _s3().look_up(path, connection) if is_on_s3(path) else local.look_up(path)


def open_folder(uri: str, connection: S3Connection = AWS_DEFAULTS) -> Folder:
    """The folder at `uri`, which need not exist yet."""
    path = resolve(uri)
    return _s3().S3Folder(path, connection) if is_on_s3(path) else local.LocalFolder(path)


def _s3() -> ModuleType:
    """The module with botocore beneath it, which takes 20 MB that a worker on local files has no use for."""
    from streaming.features import s3  # noqa: PLC0415 - see above

    return s3
