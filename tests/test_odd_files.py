"""Files that other people's cameras and programs wrote, with the outcome of each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streaming.features.imaging import Rejected
from streaming.features.schema import Reason
from tests.data import shared_data
from tests.pictures import outcome

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
