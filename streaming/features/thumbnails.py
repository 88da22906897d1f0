"""Thumbnails for pages, made by the decoder of the rows, as data URIs."""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from conf.aws.connection import S3Connection
from conf.errors import AppError, NotFoundError
from conf.settings import Settings
from streaming.features.imaging import DEFAULT_SIDE, Limits, Rejected, decode, decode_damaged, thumbnail
from streaming.features.reasons import Reason
from streaming.storage.locations import is_on_s3, read_picture

_DECODED_AT_ONCE = 2  # each takes a core, and 150 MB for 50 megapixels
_READ_AT_ONCE = 2
_READ_AT_ONCE_ON_S3 = 16
_SECONDS = 600.0
"""For all pictures of a page: longer than a page of a thousand takes, and an end where a store hangs."""

_DRAWABLE = (Reason.CORRUPT, Reason.BEING_WRITTEN, Reason.NOT_FINITE)

_logger = logging.getLogger(__name__)


def is_drawable(reason: str) -> bool:
    """Whether there may be something to show of a picture in quarantine: others crash it, hang, or are none."""
    return reason in _DRAWABLE


@dataclass(frozen=True)
class Thumbnail:
    """A picture for a page.

    Attributes:
        uri: its data URI; empty if it cannot be shown.
        note: why it cannot, or that it is not the one of the row any more; empty if all is well.
    """

    uri: str
    note: str = ""


def thumbnails(
    settings: Settings,
    pictures: Iterable[tuple[str, str | None]],
    side: int = DEFAULT_SIDE,
    seconds: float = _SECONDS,
) -> dict[str, Thumbnail]:
    """Thumbnails by path; it raises for no picture, and waits for none beyond `seconds`.

    Args:
        settings: say how pictures are read and decoded.
        pictures: path and SHA-256 of each; None if that is not known.
        side: of the longer side, in pixels, at most `DEFAULT_SIDE`.
        seconds: for all of them; what is not there then is left out, with a note.
    """
    imaging = settings.imaging
    limits = Limits(max_bytes=int(imaging.max_bytes), max_pixels=imaging.max_pixels)
    connection = S3Connection.of(settings.s3)
    wanted = dict(pictures)
    drawing = threading.Semaphore(_DECODED_AT_ONCE)

    def make(path: str) -> Thumbnail:
        try:
            data = read_picture(path, limits.max_bytes, connection)
            with drawing:
                return _draw(data, limits, side, wanted[path])
        except NotFoundError:
            return Thumbnail("", "it is no longer there")
        except Rejected as rejected:
            return Thumbnail("", f"it cannot be decoded: {rejected.reason}")
        except (AppError, OSError):
            return Thumbnail("", "it cannot be read")
        except MemoryError:
            return Thumbnail("", "there is not enough memory to decode it")
        except Exception:  # a thread that ended would have the caller wait for its picture in vain
            _logger.debug("no thumbnail of %s", path, exc_info=True)
            return Thumbnail("", "it cannot be read")

    at_once = _READ_AT_ONCE_ON_S3 if any(map(is_on_s3, wanted)) else _READ_AT_ONCE
    made = dict(_in_time(make, wanted, at_once, seconds))
    return {path: made.get(path) or Thumbnail("", "it could not be read in time") for path in wanted}


def _draw(data: bytes, limits: Limits, side: int, digest: str | None) -> Thumbnail:
    note = ""
    try:
        picture = decode(data, limits)
    except Rejected as rejected:
        if rejected.reason is not Reason.CORRUPT:
            raise
        picture, note = decode_damaged(data, limits), "it is damaged: this much of it decodes"
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        note = "it was overwritten since its row was made"
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(thumbnail(picture, side)).decode()}", note)


def _in_time(
    make: Callable[[str], Thumbnail], paths: Iterable[str], at_once: int, seconds: float
) -> Iterator[tuple[str, Thumbnail]]:
    """What is made within `seconds`. Daemon threads make it: one whose read hangs does not keep the program."""
    waiting: SimpleQueue[str] = SimpleQueue()
    for path in paths:
        waiting.put(path)
    made: SimpleQueue[tuple[str, Thumbnail]] = SimpleQueue()
    give_up = time.monotonic() + seconds

    def work() -> None:
        while time.monotonic() < give_up:
            try:
                path = waiting.get_nowait()
            except Empty:
                return
            made.put((path, make(path)))

    count = waiting.qsize()
    for _ in range(min(at_once, count)):
        threading.Thread(target=work, name="thumbnails", daemon=True).start()
    for _ in range(count):
        try:
            yield made.get(timeout=max(give_up - time.monotonic(), 0))
        except Empty:
            return
