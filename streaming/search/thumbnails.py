"""Thumbnails for pages, made by the decoder of the rows, as data URIs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from conf.aws.connection import S3Connection
from conf.errors import AppError, NotFoundError
from conf.settings import Settings
from streaming.features.imaging import DEFAULT_SIDE, Limits, Rejected, decode, thumbnail
from streaming.storage.ahead import ahead
from streaming.storage.locations import is_on_s3, read_picture

_AHEAD = 2  # decoding takes a core
_AHEAD_ON_S3 = 16


@dataclass(frozen=True)
class Thumbnail:
    """A picture for a page.

    Attributes:
        uri: its data URI; empty if it cannot be shown.
        note: why it cannot, or that it is not the one of the row any more; empty if all is well.
    """

    uri: str
    note: str = ""


def thumbnails(settings: Settings, pictures: Iterable[tuple[str, str | None]]) -> dict[str, Thumbnail]:
    """Thumbnails by path.

    Args:
        settings: say how pictures are read and decoded.
        pictures: path and SHA-256 of each; None if that is not known.
    """
    imaging = settings.imaging
    limits = Limits(max_bytes=int(imaging.max_bytes), max_pixels=imaging.max_pixels)
    connection = S3Connection.of(settings.s3)
    wanted = dict(pictures)

    def make(path: str) -> Thumbnail:
        try:
            data = read_picture(path, limits.max_bytes, connection)
            picture = decode(data, limits)
        except NotFoundError:
            return Thumbnail("", "it is no longer there")
        except Rejected as rejected:
            return Thumbnail("", f"it cannot be decoded: {rejected.reason}")
        except (AppError, OSError):
            return Thumbnail("", "it cannot be read")
        uri = f"data:image/jpeg;base64,{base64.b64encode(thumbnail(picture, DEFAULT_SIDE)).decode()}"
        changed = wanted[path] is not None and hashlib.sha256(data).hexdigest() != wanted[path]
        return Thumbnail(uri, "it was overwritten since its row was made" if changed else "")

    at_once = _AHEAD_ON_S3 if any(map(is_on_s3, wanted)) else _AHEAD
    return dict(ahead(make, wanted, at_once))
