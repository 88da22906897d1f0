"""TIFFs of all kinds come out as they look, or are refused for what is not decoded."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from streaming.features.imaging import Picture, decode
from streaming.features.reasons import Reason
from tests.support.pictures import LIMITS, encoded, fruit, outcome, plain, rejection, tiff

Samples = NDArray[np.integer]
Tags = Mapping[int, tuple[int, ...]]

SIDE = 64
RGB = np.asarray(fruit())
GRAY = np.asarray(fruit().convert("L"))
CMYK = np.asarray(fruit().convert("CMYK"))
COLOURS = np.random.default_rng(1).integers(0, 256, (3, 256), np.uint8)
ALPHA = np.full((SIDE, SIDE, 1), 200, np.uint8)


def packed(samples: Samples, bits: int) -> bytes:
    """Samples of so many bits, the rows beginning with whole bytes."""
    places = np.arange(bits)[::-1].astype(samples.dtype)
    return np.packbits((samples[..., None] >> places & 1).astype(bool).reshape(SIDE, -1), axis=1).tobytes()


def wide(levels: Samples, bits: int = 16) -> Samples:
    """Samples of more than 8 bits, the lower ones of which are not just 0."""
    return (levels.astype(np.uint16) << 8 | 0x5A) >> (16 - bits)


def few(levels: Samples, bits: int) -> Samples:
    """Levels that so few bits can tell apart."""
    return (levels >> (8 - bits)) * np.uint8(255 // (2**bits - 1))


def planes(samples: Samples) -> bytes:
    return np.ascontiguousarray(np.moveaxis(samples, 2, 0)).tobytes()


@cache
def kinds(order: str) -> dict[str, tuple[bytes, Tags, Samples]]:
    """Pixels in a file of this order of bytes, the tags that describe them, and how they look."""
    two = f"{order}u2"
    chunky = {
        "gray": (GRAY.tobytes(), {258: (8,), 262: (1,)}, GRAY),
        "gray, white is 0": ((255 - GRAY).tobytes(), {258: (8,), 262: (0,)}, GRAY),
        "16-bit gray": (wide(GRAY).astype(two).tobytes(), {258: (16,), 262: (1,)}, GRAY),
        "16-bit gray, white is 0": ((~wide(GRAY)).astype(two).tobytes(), {258: (16,), 262: (0,)}, GRAY),
        "12-bit gray": (packed(wide(GRAY, 12), 12), {258: (12,), 262: (1,)}, GRAY),
        "12-bit gray, white is 0": (packed(~wide(GRAY, 12), 12), {258: (12,), 262: (0,)}, GRAY),
        "palette": (GRAY.tobytes(), {258: (8,), 262: (3,), 320: levels(COLOURS, 257)}, COLOURS.T[GRAY]),
        "palette of 8 bits": (GRAY.tobytes(), {258: (8,), 262: (3,), 320: levels(COLOURS)}, COLOURS.T[GRAY]),
        "RGB": (RGB.tobytes(), {258: (8, 8, 8), 262: (2,), 277: (3,)}, RGB),
        "16-bit RGB": (wide(RGB).astype(two).tobytes(), {258: (16,) * 3, 262: (2,), 277: (3,)}, RGB),
        "RGBA": (np.dstack([RGB, ALPHA]).tobytes(), {258: (8,) * 4, 262: (2,), 277: (4,), 338: (2,)}, RGB),
        "CMYK": (CMYK.tobytes(), {258: (8,) * 4, 262: (5,), 277: (4,)}, RGB),
        "CIELAB": (LAB, {258: (8,) * 3, 262: (8,), 277: (3,)}, RGB),
    }
    for bits in (1, 2, 4):
        chunky[f"{bits}-bit gray"] = packed(GRAY >> (8 - bits), bits), {258: (bits,), 262: (1,)}, few(GRAY, bits)
        negative = packed((255 - GRAY) >> (8 - bits), bits)
        chunky[f"{bits}-bit gray, white is 0"] = negative, {258: (bits,), 262: (0,)}, few(GRAY, bits)
    planar = {
        "planar RGB": (planes(RGB), {258: (8,) * 3, 262: (2,), 277: (3,)}, RGB),
        "planar 16-bit RGB": (planes(wide(RGB).astype(two)), {258: (16,) * 3, 262: (2,), 277: (3,)}, RGB),
        "planar 16-bit RGBA": (
            planes(wide(np.dstack([RGB, ALPHA])).astype(two)),
            {258: (16,) * 4, 262: (2,), 277: (4,), 338: (2,)},
            RGB,
        ),
        "planar CMYK": (planes(CMYK), {258: (8,) * 4, 262: (5,), 277: (4,)}, RGB),
        "planar 16-bit CMYK": (planes(wide(CMYK).astype(two)), {258: (16,) * 4, 262: (5,), 277: (4,)}, RGB),
    }
    return chunky | {name: (pixels, {**tags, 284: (2,)}, looks) for name, (pixels, tags, looks) in planar.items()}


def levels(colours: Samples, scale: int = 1) -> tuple[int, ...]:
    return tuple(int(level) * scale for level in colours.reshape(-1))


def lab() -> bytes:
    """Pillow's own conversion, to see that what is signed in a file is understood as such."""
    from PIL import ImageCms  # noqa: PLC0415 - only here

    profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
    converted = ImageCms.applyTransform(fruit(), ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    assert converted
    return converted.tobytes()


LAB = lab()

NOT_KNOWN_TO_PILLOW = {
    ("<", "12-bit gray, white is 0"),
    (">", "12-bit gray"),
    (">", "12-bit gray, white is 0"),
    (">", "16-bit gray, white is 0"),
    ("<", "planar 16-bit CMYK"),
    (">", "planar 16-bit CMYK"),
}


@pytest.mark.parametrize("compression", [1, 8], ids=["raw", "deflate"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("name", kinds("<"))
def test_samples_of_every_kind_come_out_as_they_look_or_are_refused(name: str, order: str, compression: int) -> None:
    pixels, tags, looks = kinds(order)[name]
    if compression == 8:
        strips = tags[277][0] if 284 in tags else 1
        size = len(pixels) // strips
        compressed = [zlib.compress(pixels[number * size : (number + 1) * size]) for number in range(strips)]
        longest = max(map(len, compressed))
        pixels = b"".join(strip.ljust(longest, b"\0") for strip in compressed)
    found = outcome(tiff(pixels, SIDE, SIDE, {**tags, 259: (compression,)}, order=order))
    if isinstance(found, Picture):
        assert np.abs(found.pixels - plain(encoded(Image.fromarray(looks), "PNG"))).mean() * 127.5 < 1
        assert (found.width, found.height) == (SIDE, SIDE)
    else:
        assert (order, name) in NOT_KNOWN_TO_PILLOW
        assert found.reason is Reason.UNSUPPORTED_FORMAT
        assert "bits per sample" in found.detail


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({258: (8,), 262: (1,), 339: (2,)}, "have no fixed white"),  # Pillow takes it for unsigned
        ({258: (16,), 262: (1,), 339: (3,)}, "have no fixed white"),
        ({258: (8,) * 4, 262: (5,), 277: (4,), 332: (2,)}, "inks are others than CMYK"),
        ({258: (8,) * 3, 262: (6,), 277: (3,)}, "YCbCr without compression"),
        ({258: (8,) * 3, 262: (2,), 277: (3,), 259: (50002,)}, "compression is JPEG XL"),
        ({258: (8,) * 3, 262: (2,), 277: (3,), 259: (52546,)}, "compression is JPEG XL"),
        ({258: (8,) * 3, 262: (2,), 277: (3,), 259: (34712,)}, "compression is JPEG 2000"),
        ({258: (1,), 262: (0,), 259: (34661,)}, "compression is JBIG"),
        ({258: (8,), 262: (1,), 259: (50003,)}, "compression is 50003"),  # unknown to this project, and to Pillow
        ({258: (32,), 262: (2,), 277: (3,)}, "32 bits per sample in little-endian order"),
    ],
)
def test_what_pillow_does_not_decode_or_would_decode_wrongly_is_unsupported(tags: Tags, words: str) -> None:
    rejected = rejection(tiff(bytes(4 * SIDE * SIDE), SIDE, SIDE, tags))
    assert rejected.reason is Reason.UNSUPPORTED_FORMAT
    assert words in rejected.detail


def test_a_big_endian_bigtiff_is_unsupported() -> None:
    rejected = rejection(b"MM\0+\0\x08\0\0" + struct.pack(">QQ", 16, 0))
    assert (rejected.reason, rejected.detail) == (
        Reason.UNSUPPORTED_FORMAT,
        "this TIFF cannot be decoded: it is a BigTIFF of big-endian order",
    )


SMALL: Tags = {254: (1,), 258: (8, 8, 8), 262: (2,), 277: (3,)}
FULL: Tags = {254: (0,), 258: (8, 8, 8), 262: (2,), 277: (3,)}
SENSOR: Tags = {254: (0,), 258: (16,), 262: (32803,), 277: (1,)}
PIXELS = RGB.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("tags", "subordinate", "name"),
    [
        ({**FULL, 50706: (1, 4, 0, 0)}, [], "DNG"),
        ({**SMALL, 50706: (1, 4, 0, 0)}, [SENSOR], "DNG"),
        ({**SENSOR, 50706: (1, 4, 0, 0)}, [], "DNG"),
        (SMALL, [FULL, SENSOR], "NEF, ARW or the like"),
        (SMALL, [FULL], "NEF, ARW or the like"),
        (FULL, [SENSOR], "NEF, ARW or the like"),
        (SENSOR, [], "NEF, ARW or the like"),
        ({**FULL, 259: (65535,)}, [], "NEF, ARW or the like"),
    ],
)
def test_camera_raw_is_refused_instead_of_taken_as_its_thumbnail(
    tags: Tags, subordinate: Sequence[Tags], name: str, order: str
) -> None:
    rejected = rejection(tiff(PIXELS, SIDE, SIDE, tags, order=order, subordinate=subordinate))
    assert rejected.reason is Reason.UNSUPPORTED_FORMAT
    assert rejected.detail.startswith(f"camera raw ({name}) pictures are not accepted; convert them to one of JPEG")


def test_a_thumbnail_counts_only_where_it_is_not_that_of_a_later_page() -> None:
    rejected = rejection(tiff(PIXELS, SIDE, SIDE, SMALL, following=[FULL]))
    assert rejected.reason is Reason.UNSUPPORTED_FORMAT
    assert "thumbnail of a later one" in rejected.detail
    for whole in (
        tiff(PIXELS, SIDE, SIDE, SMALL),
        tiff(PIXELS, SIDE, SIDE, SMALL, following=[SMALL]),
        tiff(PIXELS, SIDE, SIDE, FULL, following=[SMALL]),
        tiff(PIXELS, SIDE, SIDE, FULL, subordinate=[SMALL]),
    ):
        assert np.array_equal(decode(whole, LIMITS).pixels, plain(encoded(fruit(), "PNG")))


@pytest.mark.parametrize("tag", [700, 34665, 34853, 40965], ids=["XMP", "Exif", "GPS", "Interop"])
@pytest.mark.parametrize("value", [(5,), (2**32 - 1,), (1, 2, 3)])
def test_metadata_of_a_tiff_do_not_reject_it(tag: int, value: tuple[int, ...]) -> None:
    """Be they of an unexpected type, or elsewhere than they say."""
    data = tiff(PIXELS, SIDE, SIDE, {**FULL, 274: (3,), tag: value})
    assert np.array_equal(decode(data, LIMITS).pixels, plain(encoded(fruit().rotate(180), "PNG")))
