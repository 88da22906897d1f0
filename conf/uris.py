"""Resolves URIs to the canonical form in which tables, records and logs name locations."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from conf.errors import SettingsError

S3_ROOT = "s3://"
_S3_SCHEMES = ("s3", "s3a", "s3n")


def resolve(uri: str) -> str:
    """The canonical form of a URI: `s3://bucket/prefix` or an absolute local path, without a trailing slash.

    A key is taken as it stands: S3 knows no percent-encoding. A `file:` URI is decoded.

    Raises:
        SettingsError: the scheme is unknown, an S3 URI has no bucket, or the name is not UTF-8.
    """
    location = _canonical(uri)
    try:
        location.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{location!r} is not UTF-8, and no table can hold such a path; rename it") from None
    return location


def _canonical(uri: str) -> str:
    scheme, colon, rest = uri.partition("://")
    if colon and scheme.lower() in _S3_SCHEMES:
        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise SettingsError(f"{uri!r} names no bucket; give s3a://BUCKET/PREFIX")
        return f"{S3_ROOT}{bucket}/{prefix}".rstrip("/")
    if not colon and not uri.startswith("file:"):
        return os.path.abspath(os.path.expanduser(uri))
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise SettingsError(
            f"{uri!r} is not a location that can be used; give a local path, a file:// URI or an s3a:// URI"
        )
    # "?" is a legal character of a file name, so what urlsplit took for a query belongs to the path.
    return os.path.abspath(unquote(f"{parts.path}?{parts.query}" if parts.query else parts.path))
