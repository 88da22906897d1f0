"""Reads the tags of a TIFF, to refuse files that Pillow would decode to a wrong picture or cannot decode.

A TIFF may hold nearly anything. Pillow decodes the first picture in it by the tags that it knows, and ignores others
that change the meaning of the samples.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImagePalette
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

_NEW_SUBFILE_TYPE = 254
_BITS_PER_SAMPLE = 258
_COMPRESSION = 259
_PHOTOMETRIC = 262
_SAMPLES_PER_PIXEL = 277
_PLANAR_CONFIGURATION = 284
_COLOR_MAP = 320
_SUB_IFDS = 330
_INK_SET = 332
_SAMPLE_FORMAT = 339
_DNG_VERSION = 50706

_IS_REDUCED = 1
_WHITE_IS_ZERO = 0
_SEPARATED = 5
_SEPARATE = 2
_YCBCR = 6
_RAW_PHOTOMETRICS = frozenset({32803, 34892})
"""Colour filter array and linear raw: sensor data, not yet a picture."""
_RAW_COMPRESSIONS = frozenset({32767, 32770, 34713, 65000, 65535})
"""Of Sony, Samsung, Nikon, Kodak and Pentax."""

_COMPRESSIONS = {
    9: "JBIG",
    10: "JBIG",
    32766: "NeXT",
    32909: "Pixar's Log",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_WITHOUT_WHITE = frozenset({2, 3, 5, 6})
"""Sample formats: signed, floating point, complex."""

_VALUES = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}
"""The types of the values that are read here (TIFF 6.0, page 15; BigTIFF), as `struct` calls them."""
_MOST_VALUES = 8
_MOST_ENTRIES = 65535

_MEANING_A_KIND_OF_SAMPLES = frozenset({"unknown pixel mode", "unknown raw mode for given image mode"})
"""Pillow's messages about a layout of samples that it does not support."""

WITHOUT_WHITE = "its samples (signed, 32-bit or floating point) have no fixed white"


@dataclass(frozen=True, slots=True)
class _Directory:
    """The image file directory of one picture in a TIFF.

    Attributes:
        tags: the first values of each tag, if they are whole numbers.
        following: where the next directory begins; 0 if this is the last.
    """

    tags: dict[int, tuple[int, ...]]
    following: int

    def first(self, tag: int, default: int) -> int:
        return self.tags.get(tag, (default,))[0]

    @property
    def is_reduced(self) -> bool:
        return bool(self.first(_NEW_SUBFILE_TYPE, 0) & _IS_REDUCED)

    @property
    def is_raw(self) -> bool:
        return self.first(_PHOTOMETRIC, 0) in _RAW_PHOTOMETRICS or self.first(_COMPRESSION, 0) in _RAW_COMPRESSIONS


class _Reader:
    """The directories of a TIFF, as far as they can be read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data.startswith(b"II") else ">"
        self._is_big = data[2:4] in (b"+\0", b"\0+")

    def first(self) -> _Directory:
        place = self._unpack("Q", 8) if self._is_big else self._unpack("L", 4)
        return self.directory(place[0] if place else 0)

    def directory(self, place: int) -> _Directory:
        count_type, entry_type, link_type = ("Q", "HHQ", "Q") if self._is_big else ("H", "HHL", "L")
        count = self._unpack(count_type, place)
        if not place or not count:
            return _Directory({}, 0)
        position = place + struct.calcsize(self._order + count_type)
        size, room = (struct.calcsize(self._order + layout) for layout in (entry_type, link_type))
        tags = {}
        for _ in range(min(count[0], _MOST_ENTRIES)):
            if entry := self._unpack(entry_type, position):
                tag, kind, length = entry
                if values := self._values(kind, length, position + size, room):
                    tags[tag] = values
            position += size + room
        return _Directory(tags, (self._unpack(link_type, position) or (0,))[0])

    def _values(self, kind: int, length: int, position: int, room: int) -> tuple[int, ...]:
        if kind not in _VALUES:
            return ()
        if length * struct.calcsize(self._order + _VALUES[kind]) > room:
            pointer = self._unpack("Q" if self._is_big else "L", position)
            if not pointer:
                return ()
            position = pointer[0]
        return self._unpack(f"{min(length, _MOST_VALUES)}{_VALUES[kind]}", position)

    def _unpack(self, layout: str, position: int) -> tuple[int, ...]:
        """The numbers at `position`; none if the file ends before them."""
        try:
            return struct.unpack_from(self._order + layout, self._data, position)
        except (struct.error, OverflowError):
            return ()


def first_value(data: bytes, tag: int, default: int) -> int:
    """The first value of a tag in the first directory, if it is a whole number; no more than that is read."""
    return _Reader(data).first().first(tag, default)


def camera_raw(data: bytes) -> str | None:
    """The kind of camera raw that `data` is, or None. Its first picture is a thumbnail or sensor data."""
    reader = _Reader(data)
    first = reader.first()
    if _DNG_VERSION in first.tags:
        return "DNG"
    others = first.tags.get(_SUB_IFDS, ())
    if first.is_raw or (first.is_reduced and others) or any(reader.directory(place).is_raw for place in others):
        return "NEF, ARW or the like"
    return None


def misleading(data: bytes) -> str | None:
    """The reason why `data` would be decoded to a wrong picture; None if it would not."""
    reader = _Reader(data)
    first = reader.first()
    if first.is_reduced and first.following and not reader.directory(first.following).is_reduced:
        return "its first page is a thumbnail of a later one"
    if first.first(_SAMPLE_FORMAT, 1) in _WITHOUT_WHITE:
        return WITHOUT_WHITE
    photometric = first.first(_PHOTOMETRIC, 0)
    if photometric == _SEPARATED and first.first(_INK_SET, 1) != 1:
        return "its inks are others than CMYK"
    if photometric == _YCBCR and first.first(_COMPRESSION, 1) == 1 and first.first(_SAMPLES_PER_PIXEL, 1) > 1:
        return "its samples are YCbCr without compression"
    return None


def unsupported(data: bytes, error: Exception) -> str | None:
    """The reason why Pillow does not support `data`, if that is the cause of `error`; else None."""
    if data.startswith(b"MM\0+"):
        return "it is a BigTIFF of big-endian order"
    first = _Reader(data).first()
    compression = first.first(_COMPRESSION, 1)
    if compression in _COMPRESSIONS or compression not in COMPRESSION_INFO:
        return f"its compression is {_COMPRESSIONS.get(compression, compression)}"
    if str(error) not in _MEANING_A_KIND_OF_SAMPLES:
        return None
    bits = first.tags.get(_BITS_PER_SAMPLE, (1,))
    order = "big" if data.startswith(b"MM") else "little"
    return (
        f"photometric interpretation {first.first(_PHOTOMETRIC, 0)} with {' '.join(map(str, bits))} bits per sample "
        f"in {order}-endian order is not known to Pillow"
    )


def prepare(image: TiffImageFile) -> None:
    """Correct Pillow's reading of a TIFF that is opened but not loaded yet."""
    if not isinstance(image.info.get("xmp"), bytes):
        image.info.pop("xmp", None)  # of a type that the loader does not expect
    exif = image.getexif()
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop):
        if directory in exif:
            del exif[directory]  # which the loader would read, wherever it points to
    if image.mode in ("P", "PA"):
        colours = image.tag_v2[_COLOR_MAP]
        if max(colours) < 256:  # noqa: PLR2004 - 8 bits instead of 16, as libtiff takes them too
            image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    if image.tag_v2.get(_PLANAR_CONFIGURATION) == _SEPARATE and image.tag_v2.get(_BITS_PER_SAMPLE, (8,))[0] == 16:  # noqa: PLR2004 - bits
        order = "L" if image.tag_v2.prefix == b"II" else "B"
        image.tile = [
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
            if tile.codec_name == "raw" and isinstance(tile.args, tuple) and len(tile.args[0]) == 1
            else tile
            for tile in image.tile
        ]


def gray(image: TiffImageFile, samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Samples of more than 8 bits as 8 bits, black at 0."""
    bits: int = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0]
    levels: NDArray[np.uint8] = (samples >> (bits - 8)).astype(np.uint8)
    return ~levels if image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels
