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
from streaming.features.schema import Reason
from tests.pictures import FORMATS, LIMITS, encoded, outcome, rejection


def claiming(side: int) -> dict[str, bytes]:
    """Pictures of 64 x 64 pixels whose headers state side x side."""
    jpeg, png, bitmap = (FORMATS[name] for name in ("JPEG", "PNG", "BMP"))
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    return {
        "JPEG": jpeg.replace(b"\x08\0\x40\0\x40", b"\x08" + struct.pack(">HH", side, side)),
        "PNG": png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:],
        "BMP": bitmap[:18] + struct.pack("<ii", side, side) + bitmap[26:],
    }


@pytest.mark.parametrize("name", claiming(64))
def test_too_many_pixels_are_noticed_before_any_is_decoded(name: str) -> None:
    """Decoding would find that the file is truncated."""
    assert rejection(claiming(64)[name][:-200]).reason is Reason.CORRUPT
    assert rejection(claiming(30_000)[name][:-200]).reason is Reason.TOO_MANY_PIXELS


def test_a_progressive_jpeg_of_endless_scans_is_not_decoded() -> None:
    """A few megabytes would hold a worker for an hour: every scan is one more pass over all pixels."""
    whole = encoded(Image.new("L", (640, 640)), "JPEG", progressive=True)
    last_scan = whole[whole.rindex(b"\xff\xda") : -2]
    assert isinstance(decode(whole[:-2] + 10 * last_scan + whole[-2:], LIMITS), Picture)
    assert rejection(whole[:-2] + 200 * last_scan + whole[-2:]).reason is Reason.CORRUPT


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


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([b"", *SIGNATURES]), st.binary(max_size=400))
def test_arbitrary_bytes_are_a_picture_or_rejected(start: bytes, rest: bytes) -> None:
    """Nothing that Pillow raises or warns of escapes as anything else, whatever the bytes."""
    assert_is_a_picture_or_rejected(start + rest)


@settings(max_examples=1000, deadline=None)
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
