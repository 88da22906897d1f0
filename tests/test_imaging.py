"""What `imaging.decode` promises of good, odd and hostile bytes."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from streaming.features.imaging import Limits, Picture, Rejected, decode
from streaming.features.schema import Reason
from tests.data import shared_data
from tests.samples import KINDS, draw

LIMITS = Limits(max_bytes=64 * 1024**2, max_pixels=50_000_000)

ODDITIES: dict[str, tuple[int, int] | Reason] = {
    "bombs/decompression_bomb.gif": Reason.TOO_MANY_PIXELS,
    "bombs/decompression_bomb_extents.gif": (100, 100),  # it is the second frame that explodes
    "colour_modes/16_bit_noise.tif": (32, 32),
    "colour_modes/7x13.png": (7, 13),
    "colour_modes/exif.png": (512, 512),
    "colour_modes/hopper.Lab.tif": (128, 128),
    "colour_modes/hopper_bw_500.png": (500, 500),
    "colour_modes/i_trns.png": (64, 64),
    "colour_modes/l_trns.png": (64, 64),
    "colour_modes/p_trns_single.png": (64, 64),
    "colour_modes/pil123p.png": (162, 150),
    "colour_modes/pil136.png": (55, 43),
    "colour_modes/pil_sample_rgb.jpg": (100, 100),
    "colour_modes/rgb_trns.png": (64, 64),
    "colour_modes/tiff_16bit_RGB.tiff": (100, 40),
    "colour_modes/transparent.png": (200, 150),
    "colour_modes/uncompressed_la.png": (128, 128),
    "constructed/fruits360_header_only.jpg": Reason.CORRUPT,
    "constructed/fruits360_trailing_garbage.jpg": (100, 100),
    "constructed/git_lfs_pointer.jpg": Reason.NOT_AN_IMAGE,
    "constructed/html_saved_as.jpg": Reason.NOT_AN_IMAGE,
    "exif_orientation/exif_imagemagick_orientation.png": (512, 512),
    "exif_orientation/hopper_orientation_3.jpg": (128, 128),
    "exif_orientation/hopper_orientation_5.jpg": (128, 128),
    "exif_orientation/hopper_orientation_6.webp": (128, 128),
    "exif_orientation/hopper_orientation_8.jpg": (128, 128),
    "exif_orientation/landscape_2.jpg": (600, 450),
    "exif_orientation/landscape_4.jpg": (600, 450),
    "exif_orientation/landscape_6.jpg": (600, 450),
    "exif_orientation/landscape_8.jpg": (600, 450),
    "exif_orientation/recurser_Portrait_6.jpg": (1200, 1800),
    "other_formats/Arbitro.tiff": (174, 38),
    "other_formats/chi.gif": (320, 240),
    "other_formats/flower.webp": (480, 360),
    "other_formats/hopper.bmp": (128, 128),
    "other_formats/hopper.ico": Reason.UNSUPPORTED_FORMAT,
    "other_formats/hopper.tif": (128, 128),
    "other_formats/hopper_jpg.tif": (128, 128),
    "other_formats/iss634.gif": (245, 245),
    "other_formats/multipage.tiff": (10, 10),
    "other_formats/single_frame.png": (128, 64),
    "truncated_or_corrupt/33-type_error.jpg": (2560, 1600),
    "truncated_or_corrupt/background_outside_palette.gif": (1, 1),
    "truncated_or_corrupt/broken_data_stream.png": Reason.CORRUPT,
    "truncated_or_corrupt/corrupted.jpg": (3648, 2736),  # its metadata are damaged, its pixels are not
    "truncated_or_corrupt/crash-63b1dffefc8c075ddc606c0a2f5fdc15ece78863.tif": Reason.CORRUPT,
    "truncated_or_corrupt/empty_gps_ifd.jpg": (10, 10),
    "truncated_or_corrupt/exif_typeerror.jpg": (800, 531),
    "truncated_or_corrupt/hopper_idat_after_image_end.png": (128, 128),
    "truncated_or_corrupt/image00971.jpg": (636, 227),
    "truncated_or_corrupt/image01137.jpg": (88, 64),
    "truncated_or_corrupt/image01713.jpg": (49, 500),
    "truncated_or_corrupt/image02206.jpg": (65, 65),
    "truncated_or_corrupt/jpeg_ff00_header.jpg": (300, 225),
    "truncated_or_corrupt/libtiff_segfault.tif": Reason.CORRUPT,
    "truncated_or_corrupt/oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif": Reason.CORRUPT,
    "truncated_or_corrupt/sugarshack_bad_mpo_header.jpg": (640, 480),
    "truncated_or_corrupt/total-pages-zero.tif": (1728, 2156),
    "truncated_or_corrupt/truncated_end_chunk.png": Reason.CORRUPT,
    "truncated_or_corrupt/truncated_image.png": Reason.CORRUPT,
    "truncated_or_corrupt/unknown_compression_method.png": Reason.CORRUPT,
    "wrong_extension/PNG_P_apple_37.jpg": (389, 352),
    "wrong_extension/PNG_P_apple_8.jpg": (238, 168),
    "wrong_extension/PNG_RGBA_banana_71.jpg": (478, 224),
    "wrong_extension/PNG_RGB_apple_20.jpg": (500, 500),
    "wrong_extension/PNG_RGB_orange_59.jpg": (400, 400),
}
"""Each file's size as displayed, or the reason why it is rejected."""


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


@pytest.mark.parametrize("name", ODDITIES)
def test_an_odd_file_has_exactly_the_outcome_of_the_table(name: str) -> None:
    """Names mean nothing: PNG files called .jpg are pictures, texts called .jpg are not."""
    found = outcome((shared_data() / "oddities" / name).read_bytes())
    assert (found.reason if isinstance(found, Rejected) else (found.width, found.height)) == ODDITIES[name]


def test_the_table_has_every_odd_file() -> None:
    folder = shared_data() / "oddities"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(ODDITIES)
    assert len(ODDITIES) == 66


def test_a_worker_says_nothing_of_odd_files_and_stays_small() -> None:
    """What is wrong with a picture stands in its row; a worker's stderr is for what is wrong with the worker."""
    program = """
import sys
import zlib
from pathlib import Path
from streaming.features.imaging import Limits, Rejected, decode
for path in Path(sys.argv[1]).rglob("*.*"):
    try:
        decode(path.read_bytes(), Limits(64 * 1024**2, 50_000_000))
    except Rejected:
        pass
print(*{"pyspark", "tensorflow", "pydantic"} & sys.modules.keys())
"""
    command = [sys.executable, "-c", program, str(shared_data() / "oddities")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "\n")


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


def mean_difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """In levels of 0 to 255."""
    return float(np.abs(one - other).mean() * 127.5)


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
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_corrupt_at_every_scale(side: int, progressive: bool) -> None:  # noqa: FBT001
    whole = encoded(fruit(side), "JPEG", progressive=progressive)
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
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "camera raw"),
        (b"II*\0\x10\0\0\0CR\x02\0", "camera raw"),
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


def test_threads_decode_as_one_does() -> None:
    expected = {name: decode(data, LIMITS).pixels for name, data in FORMATS.items()}
    with ThreadPoolExecutor(8) as pool:
        for name, picture in pool.map(lambda name: (name, decode(FORMATS[name], LIMITS)), 20 * list(FORMATS)):
            assert np.array_equal(picture.pixels, expected[name])


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
