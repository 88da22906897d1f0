"""Reads the EXIF of a picture: how it lies, when it was captured, and by which camera.

Nothing is guessed: what EXIF does not say, or not in its own form, is None, and no metadata rejects a picture. The time
is not read from a TIFF, whose directories may point to anywhere in the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from PIL import ExifTags, Image

from streaming.features import tiff

UPRIGHT = 1

_MOST_BYTES = 64 * 1024
"""As much as a segment of a JPEG holds. n bytes can name n / 12 values of n bytes each, and Pillow copies all."""
_OF_JPEG = b"Exif\0\0"
_PNG_TEXT = "Raw profile type exif"
_LONGEST_CAMERA = 100
_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")
_FRACTION = re.compile(r"\d{1,6}")


@dataclass(frozen=True, slots=True)
class Exif:
    """The values of a picture's EXIF that are kept.

    Attributes:
        orientation: 1 to 8, as the tag Orientation; 1, which is upright, if it cannot be read.
        captured_at: DateTimeOriginal in ISO 8601, by the camera's own clock, with fraction and offset where it has
            them: `2026-01-31T23:59:59.25+01:00`.
        camera: make and model.
    """

    orientation: int = UPRIGHT
    captured_at: str | None = None
    camera: str | None = None


def read_exif(image: Image.Image) -> Exif:
    """The EXIF of an opened picture, of any format; EXIF 2.32, sections 4.6.4 and 4.6.5.

    Raises:
        MemoryError: its values take more than there is.
    """
    if len(data := image.info.get("exif") or b"") > _MOST_BYTES:  # pillow-heif has None
        return Exif(_orientation(tiff.first_value(data.removeprefix(_OF_JPEG), ExifTags.Base.Orientation, UPRIGHT)))
    if len(image.info.get(_PNG_TEXT, "")) > 2 * _MOST_BYTES:  # in hexadecimal digits
        return Exif()
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, UPRIGHT)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - odd metadata make Pillow's parser raise almost anything
        return Exif()
    orientation = _orientation(orientation)
    if not exif:
        return Exif(orientation)
    try:
        camera = _camera(exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model))
        captured_at = _captured_at(exif.get_ifd(ExifTags.IFD.Exif))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - as above
        return Exif(orientation)
    return Exif(orientation, captured_at, camera)


def _orientation(value: object) -> int:
    return value if isinstance(value, int) and value in range(1, 9) else UPRIGHT


def _camera(make: object, model: object) -> str | None:
    words, named = _words(make), _words(model)
    if words and named and named.casefold().startswith(words.casefold()):
        words = ""  # as Canon does
    return f"{words} {named}".strip()[:_LONGEST_CAMERA] or None


def _words(value: object) -> str:
    """A text without the padding of old cameras; empty if there is none, or it is not of printable characters."""
    text = " ".join(value.replace("\0", " ").split()) if isinstance(value, str) else ""
    return text if text.isprintable() else ""


def _captured_at(tags: dict[int, object]) -> str | None:
    found = _match(_TIME, tags.get(ExifTags.Base.DateTimeOriginal))
    if not found:
        return None
    year, month, day, clock = found.groups()
    fraction = _match(_FRACTION, tags.get(ExifTags.Base.SubsecTimeOriginal))
    offset = _match(_OFFSET, tags.get(ExifTags.Base.OffsetTimeOriginal))
    text = f"{year}-{month}-{day}T{clock}{f'.{fraction[0]}' if fraction else ''}{offset[0] if offset else ''}"
    try:
        datetime.fromisoformat(text)
    except ValueError:  # 0000:00:00, of a clock that was never set
        return None
    return text


def _match(pattern: re.Pattern[str], value: object) -> re.Match[str] | None:
    return pattern.fullmatch(value.strip("\0 ")) if isinstance(value, str) else None
