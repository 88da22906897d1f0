"""What is not pixels rejects no picture: WebP and GIF. The other formats are in test_formats and test_imaging."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from streaming.features.imaging import Rejected
from streaming.features.reasons import Reason
from tests.support.pictures import encoded, fruit, outcome

_TURNED = 6


def _webp(mode: str = "RGB") -> bytes:
    """With EXIF behind the pixels, and turned by it."""
    exif = Image.Exif()
    exif[0x0112] = _TURNED
    return encoded(fruit(100, 60).convert(mode), "WEBP", exif=exif, lossless=True)


def _gif() -> bytes:
    return encoded(fruit(100, 60).quantize(16), "GIF")


def _end_of_colours(gif: bytes) -> int:
    return 13 + (3 * 2 << (gif[10] & 7))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("wrong", [-8, 100, 2**31], ids=lambda wrong: f"{wrong:+}")
def test_a_webp_of_another_length_than_its_header_says(mode: str, wrong: int) -> None:
    data = _webp(mode)
    length = int.from_bytes(data[4:8], "little") + wrong
    found, usual = outcome(data[:4] + length.to_bytes(4, "little") + data[8:]), outcome(data)
    assert not isinstance(found, Rejected)
    assert not isinstance(usual, Rejected)
    assert (found.width, found.height) == (60, 100)  # it is still turned
    assert np.array_equal(found.pixels, usual.pixels)


def test_a_webp_whose_metadata_are_cut_off() -> None:
    """It is not turned, as nothing says so any more; one whose pixels are cut off is corrupt."""
    data = _webp()
    found = outcome(data[:-5])
    assert not isinstance(found, Rejected)
    assert (found.width, found.height) == (100, 60)
    cut = outcome(data[: len(data) // 2])
    assert isinstance(cut, Rejected)
    assert cut.reason is Reason.CORRUPT


@pytest.mark.parametrize(
    "extension",
    [
        b"\x21\xf9\x00",
        b"\x21\xf9\x01\x00\x00",
        b"\x21\xff\x00",
        b"\x21\xff\x03abc\x00",
        b"\x21\xfe\x00",
        b"\x21\x01\x00",
    ],
    ids=bytes.hex,
)
def test_a_gif_with_an_extension_without_content(extension: bytes) -> None:
    data = _gif()
    start = _end_of_colours(data)
    found, usual = outcome(data[:start] + extension + data[start:]), outcome(data)
    assert not isinstance(found, Rejected)
    assert not isinstance(usual, Rejected)
    assert np.array_equal(found.pixels, usual.pixels)


def test_a_gif_of_extensions_only_is_corrupt() -> None:
    """Wherever it ends."""
    data = _gif()
    start = _end_of_colours(data)
    for rest in (b"", b"\x21", b"\x21\xf9", b"\x21\xf9\x04", b"\x21\xf9\x00", b"\x21\xf9\x00\x3b"):
        found = outcome(data[:start] + rest)
        assert isinstance(found, Rejected)
        assert found.reason is Reason.CORRUPT
