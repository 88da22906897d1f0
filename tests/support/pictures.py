"""Pictures in memory: one in each accepted format, and what becomes of it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streaming.features.imaging import Limits, Picture, Rejected, decode
from tests.support.samples import KINDS, draw

LIMITS = Limits(max_bytes=64 * 1024**2, max_pixels=50_000_000)


def fruit(width: int = 64, height: int | None = None, kind: str = "Banana") -> Image.Image:
    """A picture that no flip or turn maps onto itself."""
    drawn = Image.fromarray(draw(KINDS[kind], np.random.default_rng(7), width))
    return drawn.crop((0, 0, width, height or width))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(data: bytes, side: int = 224) -> NDArray[np.float32]:
    """The tensor by the contract's own words: Pillow's defaults, then Keras's `mobilenet_v2.preprocess_input`."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((side, side))
    return np.asarray(image, dtype=np.float32) / np.float32(127.5) - np.float32(1)


def outcome(data: bytes, limits: Limits = LIMITS) -> Picture | Rejected:
    try:
        return decode(data, limits)
    except Rejected as rejected:
        return rejected


def rejection(data: bytes, limits: Limits = LIMITS) -> Rejected:
    rejected = outcome(data, limits)
    assert isinstance(rejected, Rejected)
    return rejected


FORMATS: dict[str, bytes] = {
    "JPEG": encoded(fruit(), "JPEG"),
    "progressive JPEG": encoded(fruit(), "JPEG", progressive=True),
    "CMYK JPEG": encoded(fruit().convert("CMYK"), "JPEG"),
    "multi-picture JPEG": encoded(fruit(), "MPO", save_all=True, append_images=[fruit(kind="Plum")]),
    "PNG": encoded(fruit(), "PNG"),
    "palette PNG": encoded(fruit().quantize(64), "PNG"),
    "WebP": encoded(fruit(), "WEBP"),
    "lossless WebP": encoded(fruit(), "WEBP", lossless=True),
    "BMP": encoded(fruit(), "BMP"),
    "TIFF": encoded(fruit(), "TIFF"),
    "LZW TIFF": encoded(fruit(), "TIFF", compression="tiff_lzw"),
    "JPEG TIFF": encoded(fruit(), "TIFF", compression="jpeg"),
    "AVIF": encoded(fruit(), "AVIF"),
    "GIF": encoded(fruit(), "GIF", save_all=True, append_images=[fruit(kind="Plum")]),
}


def tiff(
    pixels: bytes,
    width: int,
    height: int,
    tags: Mapping[int, tuple[int, ...]],
    *,
    order: str = "<",
    subordinate: Sequence[Mapping[int, tuple[int, ...]]] = (),
    following: Sequence[Mapping[int, tuple[int, ...]]] = (),
) -> bytes:
    """A TIFF whose first picture has these tags, in one strip or as many as it has planes.

    Args:
        pixels: as they stand in the file.
        width: of all its pictures.
        height: of all its pictures.
        tags: beside those of the size and the place; a value is written as 16 bits if all of a tag fit.
        order: of bytes, as in `struct`.
        subordinate: what the tag SubIFDs points to; these have the same pixels.
        following: the other pages.
    """
    content = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, 0))
    at = len(content)
    content += pixels

    def write(one: Mapping[int, tuple[int, ...]], link: int) -> int:
        strips = one[277][0] if one.get(284) == (2,) else 1
        whole = {
            256: (width,),
            257: (height,),
            273: tuple(at + number * len(pixels) // strips for number in range(strips)),
            278: (height,),
            279: (len(pixels) // strips,) * strips,
            **one,
        }
        entries = b""
        for tag, values in sorted(whole.items()):
            kind, letter = (3, "H") if max(values) < 65536 and tag != 330 else (4, "L")
            packed = struct.pack(f"{order}{len(values)}{letter}", *values)
            if len(packed) > 4:
                packed, place = struct.pack(f"{order}L", len(content)), packed
                content.extend(place)
            entries += struct.pack(f"{order}HHL", tag, kind, len(values)) + packed.ljust(4, b"\0")
        begin = len(content)
        content.extend(struct.pack(f"{order}H", len(whole)) + entries + struct.pack(f"{order}L", link))
        return begin

    link = 0
    for page in reversed(following):
        link = write(page, link)
    places = tuple(write(one, 0) for one in subordinate)
    content[4:8] = struct.pack(f"{order}L", write({**tags, 330: places} if places else tags, link))
    return bytes(content)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""How a camera that was held in one of the eight ways stores an upright picture, by the EXIF tag Orientation."""


def held(upright: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(upright)))), exif


def mean_difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """In levels of 0 to 255."""
    return float(np.abs(one - other).mean() * 127.5)
