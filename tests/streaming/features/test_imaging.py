"""What `imaging.decode` promises of good, odd and hostile bytes."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from streaming.features.imaging import Limits, Picture, Rejected, decode
from streaming.features.reasons import Reason
from tests.support.data import shared_data
from tests.support.pictures import (
    FORMATS,
    LIMITS,
    STORED,
    encoded,
    fruit,
    held,
    mean_difference,
    outcome,
    plain,
    rejection,
)


def test_fruit_photographs_come_out_bit_exactly_as_pillow_and_keras_give_them() -> None:
    """Features of small pictures stay comparable with those that other teams computed."""
    photographs = sorted(shared_data().glob("fruits360/*/*.jpg"))
    assert len(photographs) == 2152
    for photograph in photographs:
        data = photograph.read_bytes()
        picture = decode(data, LIMITS)
        assert np.array_equal(picture.pixels, plain(data)), photograph
        assert (picture.width, picture.height) == (100, 100)
        assert picture.pixels.dtype == np.float32


@pytest.mark.parametrize("name", FORMATS)
def test_every_accepted_format_comes_out_as_pillow_gives_its_first_frame(name: str) -> None:
    picture = decode(FORMATS[name], LIMITS)
    assert np.array_equal(picture.pixels, plain(FORMATS[name]))
    assert (picture.width, picture.height) == (64, 64)


@pytest.mark.parametrize(("width", "height"), [(49, 500), (225, 250), (300, 700), (500, 300)])
def test_a_picture_is_shrunk_across_before_it_is_shrunk_down(width: int, height: int) -> None:
    """The other order rounds other values in between. Pillow 13 takes it for tall pictures: their features shift."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(noise)
    across = image.resize((224, height))
    assert np.array_equal(decode(encoded(image, "PNG"), LIMITS).pixels, plain(encoded(across, "PNG")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_of_all_exif_orientations_agree_to_the_bit(orientation: int, kind: str) -> None:
    upright = fruit(64, 48)
    stored, exif = held(upright, orientation)
    picture = decode(encoded(stored, kind, exif=exif, lossless=True), LIMITS)
    assert np.array_equal(picture.pixels, plain(encoded(upright, "PNG")))
    assert (picture.width, picture.height) == (64, 48)


@pytest.mark.parametrize("orientation", STORED)
def test_a_large_camera_picture_is_turned_and_keeps_its_real_size(orientation: int) -> None:
    """It is decoded at half its size, which must show neither in its looks nor in its row."""
    upright = fruit(960, 912)
    stored, exif = held(upright, orientation)
    picture = decode(encoded(stored, "JPEG", exif=exif, quality=95), LIMITS)
    assert (picture.width, picture.height) == (960, 912)
    assert mean_difference(picture.pixels, plain(encoded(upright, "PNG"))) < 1


@pytest.mark.parametrize("orientation", [4, 6, 8])
def test_real_photographs_of_one_scene_agree_in_all_orientations(orientation: int) -> None:
    folder = shared_data() / "oddities" / "exif_orientation"
    one, other = (decode((folder / f"landscape_{tag}.jpg").read_bytes(), LIMITS) for tag in (2, orientation))
    assert mean_difference(one.pixels, other.pixels) < 4


@pytest.mark.filterwarnings("ignore:::PIL")  # as imaging does for the process; pytest's own filters come first
@pytest.mark.parametrize("exif", [b"MM\0*\0\0\0\x08\0\x20", b"rubbish", b"II*\0\xff\xff\xff\xff"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_metadata_that_cannot_be_read_leave_a_picture_as_it_lies(kind: str, exif: bytes) -> None:
    data = encoded(fruit(), kind, exif=b"Exif\0\0" + exif, dpi=(72, 72))
    assert np.array_equal(decode(data, LIMITS).pixels, plain(data))


@pytest.mark.parametrize(("width", "height"), [(895, 1600), (1600, 895), (1791, 100)])
def test_a_jpeg_with_a_side_below_896_is_decoded_in_full(width: int, height: int) -> None:
    data = encoded(fruit(max(width, height)).crop((0, 0, width, height)), "JPEG")
    assert np.array_equal(decode(data, LIMITS).pixels, plain(data))


def test_a_jpeg_of_896_pixels_or_more_is_decoded_at_reduced_scale() -> None:
    """At the scale that leaves twice the backbone's size, as docs/adr/0001-jpeg-draft.md decided."""
    data = encoded(fruit(896), "JPEG")
    image = Image.open(io.BytesIO(data))
    image.draft(None, (448, 448))
    assert image.size == (448, 448)
    assert np.array_equal(decode(data, LIMITS).pixels, plain(encoded(image, "PNG")))


def test_only_jpegs_are_decoded_at_reduced_scale() -> None:
    data = encoded(fruit(1000), "PNG", compress_level=1)
    assert np.array_equal(decode(data, LIMITS).pixels, plain(data))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_looks_as_if_it_had_been_decoded_in_full(mode: str) -> None:
    data = encoded(fruit(1800).convert(mode), "JPEG", quality=90)
    assert mean_difference(decode(data, LIMITS).pixels, plain(data)) < 0.5


@pytest.mark.parametrize("side", [64, 1800])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_truncated_jpeg_is_corrupt_at_every_scale(side: int, options: dict[str, bool]) -> None:
    whole = encoded(fruit(side), "JPEG", **options)
    for length in (len(whole) // 3, len(whole) * 9 // 10, len(whole) - 2):
        assert rejection(whole[:length]).reason is Reason.CORRUPT


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_corrupt_unless_no_pixel_is_missing(name: str) -> None:
    whole = FORMATS[name]
    pixels = decode(whole, LIMITS).pixels
    for length in [*range(20, len(whole), 97), *range(len(whole) - 30, len(whole))]:
        found = outcome(whole[:length])
        if isinstance(found, Rejected):
            assert found.reason is Reason.CORRUPT, length
        else:
            assert np.array_equal(found.pixels, pixels), length


def test_gray_of_16_bits_keeps_its_shades() -> None:
    """Pillow's own conversion would turn all but the darkest 256 shades of 65536 into white."""
    shades = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    expected = plain(encoded(Image.fromarray((shades >> 8).astype(np.uint8)), "PNG"))
    big_endian = Image.frombytes("I;16B", (64, 64), shades.astype(">u2").tobytes())
    for data in (
        encoded(Image.fromarray(shades), "PNG"),
        encoded(Image.fromarray(shades), "TIFF"),
        encoded(big_endian, "TIFF"),
    ):
        assert np.array_equal(decode(data, LIMITS).pixels, expected)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_samples_without_a_fixed_white_are_refused_instead_of_clipped(dtype: type[np.number]) -> None:
    data = encoded(Image.fromarray(np.full((8, 8), 1000, dtype)), "TIFF")
    assert rejection(data).reason is Reason.UNSUPPORTED_FORMAT


def test_transparency_is_dropped_and_the_colours_beneath_it_count() -> None:
    opaque = fruit()
    transparent = opaque.copy()
    transparent.putalpha(0)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(encoded(transparent, kind), LIMITS).pixels, plain(encoded(opaque, "PNG")))


@pytest.mark.parametrize("name", ["JPEG", "GIF"])
def test_a_header_that_breaks_off_is_called_that(name: str) -> None:
    """Pillow's own words for it are "index out of range" and the like."""
    assert rejection(FORMATS[name][:20]).detail == f"this {name} does not decode: its header breaks off"


def test_no_bytes_are_empty() -> None:
    assert rejection(b"").reason is Reason.EMPTY


@pytest.mark.parametrize(
    "content",
    [
        b"\0",
        b"\xff\xd8",
        b"GIF",
        b"just a text",
        b"BMW and Audi are makers of cars",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"<!doctype html><html><svg></svg></html>",
        b"<?xml version='1.0'?><html></html>",
        bytes(1000),
    ],
)
def test_what_is_no_picture_is_not_an_image(content: bytes) -> None:
    assert rejection(content).reason is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "camera raw (CR3)"),
        (b"II*\0\x10\0\0\0CR\x02\0", "camera raw (CR2)"),
        (b"II\x1a\0\0\0HEAPCCDR", "camera raw (CRW)"),
        (b"II*\0\x08\0\0\0IIIIwaR\0", "camera raw (IIQ)"),
        (b"\0MRM\0\x06\0\0", "camera raw (MRW)"),
        (b"IIRO\x08\0\0\0", "camera raw (ORF)"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw (RAF)"),
        (b"IIU\0\x18\0\0\0", "camera raw (RW2)"),
        (b"FOVb\0\0\2\0", "camera raw (X3F)"),
        (encoded(fruit(), "JPEG2000"), "JPEG 2000"),
        (encoded(fruit(), "ICO"), "icon"),
        (encoded(fruit(), "PPM"), "Netpbm"),
        (encoded(fruit(), "EPS"), "PostScript"),
        (encoded(fruit(), "QOI"), "QOI"),
        (b"8BPS\0\x01\0\0\0\0\0\0\0\x03", "Photoshop"),
        (b"\n<?xml version='1.0'?>\n<!-- a drawing -->\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    ],
)
def test_a_picture_of_another_format_is_named(content: bytes, name: str) -> None:
    """Who reads the row learns what to convert, and into what."""
    rejected = rejection(content)
    assert rejected.reason is Reason.UNSUPPORTED_FORMAT
    assert rejected.detail.startswith(f"{name} pictures are not accepted; convert them to one of JPEG, PNG")


def test_a_limit_is_the_largest_that_is_accepted() -> None:
    data = FORMATS["PNG"]
    assert isinstance(decode(data, Limits(len(data), 64 * 64)), Picture)
    assert rejection(data, Limits(len(data) - 1, 64 * 64)).reason is Reason.TOO_MANY_BYTES
    assert rejection(data, Limits(len(data), 64 * 64 - 1)).reason is Reason.TOO_MANY_PIXELS


def test_threads_decode_as_one_does() -> None:
    expected = {name: decode(data, LIMITS).pixels for name, data in FORMATS.items()}
    with ThreadPoolExecutor(8) as pool:
        for name, picture in pool.map(lambda name: (name, decode(FORMATS[name], LIMITS)), 20 * list(FORMATS)):
            assert np.array_equal(picture.pixels, expected[name])
