"""Bytes that are made to harm: whatever they are, a picture comes out, or a reason."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from streaming.features.imaging import Limits, Picture, Rejected, decode
from streaming.features.reasons import Reason
from tests.support.pictures import FORMATS, LIMITS, encoded, outcome, rejection


def claiming(side: int) -> dict[str, bytes]:
    """Pictures of 64 x 64 pixels whose headers state side x side."""
    jpeg, png, bitmap, avif = (FORMATS[name] for name in ("JPEG", "PNG", "BMP", "AVIF"))
    assert avif.count(b"ispe") == 1
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    return {
        "JPEG": jpeg.replace(b"\x08\0\x40\0\x40", b"\x08" + struct.pack(">HH", side, side)),
        "PNG": png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:],
        "BMP": bitmap[:18] + struct.pack("<ii", side, side) + bitmap[26:],
        "AVIF": avif.replace(b"ispe\0\0\0\0\0\0\0\x40\0\0\0\x40", b"ispe\0\0\0\0" + struct.pack(">II", side, side)),
    }


@pytest.mark.parametrize("name", claiming(64))
def test_too_many_pixels_are_noticed_before_any_is_decoded(name: str) -> None:
    """Decoding would find that the file is truncated."""
    assert rejection(claiming(64)[name][:-200]).reason is Reason.CORRUPT
    assert rejection(claiming(12_000)[name][:-200]).reason is Reason.TOO_MANY_PIXELS


def test_an_avif_of_more_pixels_than_libavif_takes_is_not_called_corrupt() -> None:
    rejected = rejection(claiming(30_000)["AVIF"])
    assert rejected.reason is Reason.UNSUPPORTED_FORMAT
    assert rejected.detail == "this AVIF cannot be decoded: 30000 x 30000 pixels are more than libavif takes"


def scans(data: bytes, more: bytes, times: int) -> bytes:
    """The JPEG with more scans before its end."""
    return data[:-2] + times * more + data[-2:]


def sequential_of_three_scans() -> tuple[bytes, bytes]:
    """A JPEG that is not progressive, with a scan for each component; and its last scan, cut short."""
    gray = encoded(Image.new("L", (640, 640), 77), "JPEG")
    frame, scan = gray.index(b"\xff\xc0"), gray.index(b"\xff\xda")
    three = b"\xff\xc0\0\x11" + gray[frame + 4 : frame + 9] + bytes([3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    header = gray[:frame] + three + gray[frame + 13 : scan]
    each = [b"\xff\xda\0\x08\1" + bytes([component, 0, 0, 63, 0]) for component in (1, 2, 3)]
    whole = header + b"".join(start + gray[scan + 10 : -2] for start in each) + b"\xff\xd9"
    return whole, each[2] + b"\0"


def test_a_jpeg_of_endless_scans_is_not_decoded() -> None:
    """A few megabytes would hold a worker for hours: every scan is one more pass over all pixels."""
    progressive = encoded(Image.new("L", (640, 640)), "JPEG", progressive=True)
    for whole, more in (
        (progressive, progressive[progressive.rindex(b"\xff\xda") : -2]),
        sequential_of_three_scans(),
    ):
        assert isinstance(decode(scans(whole, more, 10), LIMITS), Picture)
        assert rejection(scans(whole, more, 200)).reason is Reason.CORRUPT


@pytest.mark.parametrize("name", ["JPEG", "progressive JPEG"])
def test_scans_behind_the_end_of_a_jpeg_do_not_count(name: str) -> None:
    """Phones append a video to a photograph, and frames of it contain any bytes."""
    video = b"\0\0\0\x18ftypmp42" + 200 * b"\xff\xda\0\x08"
    assert np.array_equal(decode(FORMATS[name] + video, LIMITS).pixels, decode(FORMATS[name], LIMITS).pixels)


def assert_is_a_picture_or_rejected(data: bytes) -> None:
    found = outcome(data, Limits(max_bytes=10**6, max_pixels=10**6))
    if isinstance(found, Rejected):
        assert isinstance(found.reason, Reason)
        assert found.detail.isprintable()
        assert 0 < len(found.detail) < 300
        assert " at 0x" not in found.detail
        assert str(found) == f"{found.reason.value}: {found.detail}"
    else:
        assert found.pixels.shape == (224, 224, 3)
        assert np.abs(found.pixels).max() <= 1


SIGNATURES = [data[:length] for data in FORMATS.values() for length in (3, 8, 16, 32)]


@settings(max_examples=500)
@given(st.sampled_from([b"", *SIGNATURES]), st.binary(max_size=400))
def test_arbitrary_bytes_are_a_picture_or_rejected(start: bytes, rest: bytes) -> None:
    """Nothing that Pillow raises or warns of escapes as anything else, whatever the bytes."""
    assert_is_a_picture_or_rejected(start + rest)


@settings(max_examples=1000)
@given(
    st.sampled_from(list(FORMATS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=8),
    st.floats(0, 1),
)
def test_mutated_and_truncated_pictures_are_a_picture_or_rejected(
    name: str, changes: list[tuple[float, bytes]], kept: float
) -> None:
    """As above, from the other end: nearly whole files reach deeper into the decoders."""
    data = bytearray(FORMATS[name])
    for where, replacement in changes:
        # Most of what a decoder can trip over stands at the beginning.
        position = int(where**3 * len(data))
        data[position : position + len(replacement)] = replacement
    assert_is_a_picture_or_rejected(bytes(data[: round(len(data) * max(kept, 1 - kept))]))
