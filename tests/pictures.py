"""Pictures in memory: one in each accepted format, and what becomes of it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streaming.features.imaging import Limits, Picture, Rejected, decode
from tests.samples import KINDS, draw

LIMITS = Limits(max_bytes=64 * 1024**2, max_pixels=50_000_000)


def fruit(width: int = 64, height: int | None = None, kind: str = "Banana") -> Image.Image:
    """A picture that no flip or turn maps onto itself."""
    drawn = Image.fromarray(draw(KINDS[kind], np.random.default_rng(7), width))
    return drawn.crop((0, 0, width, height or width))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(data: bytes) -> NDArray[np.float32]:
    """The tensor by the contract's own words: Pillow's defaults, then Keras's `mobilenet_v2.preprocess_input`."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224))
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
    "GIF": encoded(fruit(), "GIF", save_all=True, append_images=[fruit(kind="Plum")]),
}
