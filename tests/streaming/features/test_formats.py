"""Valid pictures that are stored in unusual ways, and what is said of those that are not decoded."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pillow_heif import from_pillow

from streaming.features.expendable import NO_MEMORY_FOR_A_THREAD
from streaming.features.imaging import Limits, decode
from streaming.features.reasons import Reason
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
    png_chunk,
    rejection,
)

PNG_HEADER_END = 33
MEGABYTE = 1024**2

Save = Callable[..., bytes]


def heic(image: Image.Image, append_images: Sequence[Image.Image] = (), **options: Any) -> bytes:
    buffer, pictures = io.BytesIO(), from_pillow(image)
    for other in append_images:
        pictures.add_from_pillow(other)
    pictures.save(buffer, quality=90, chroma=444, enc_params={"preset": "ultrafast"}, **options)
    return buffer.getvalue()


def damaged(chunk: bytes) -> bytes:
    """The chunk with a wrong checksum."""
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


NOISE = np.random.default_rng(1).bytes(2 * MEGABYTE)
METADATA = {
    "large profile": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(NOISE)),
    "profile that explodes": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(20 * MEGABYTE))),
    "profile of an unknown compression": png_chunk(b"iCCP", b"profile\0\1"),
    "large text": png_chunk(b"zTXt", b"history\0\0" + zlib.compress(NOISE)),
    "large international text": png_chunk(b"iTXt", b"history\0\1\0\0\0" + zlib.compress(NOISE)),
    "wrong checksum of a text": damaged(png_chunk(b"tEXt", b"Software\0x")),
    "wrong checksum of a private chunk": damaged(png_chunk(b"prVt", b"x")),
    "wrong checksum of a density": damaged(png_chunk(b"pHYs", struct.pack(">IIB", 1, 1, 0))),
    "density that breaks off": png_chunk(b"pHYs", b"\0"),
    "animation of no frames": png_chunk(b"acTL", bytes(8)),
}


@pytest.mark.parametrize("at", [PNG_HEADER_END, -12], ids=["before", "behind"])
@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_a_png_do_not_reject_it(name: str, at: int) -> None:
    whole = FORMATS["PNG"]
    assert np.array_equal(decode(whole[:at] + METADATA[name] + whole[at:], LIMITS).pixels, plain(whole))


def test_texts_of_a_png_that_explode_do_not_reject_it() -> None:
    """Each is readable, and all of them are more than Pillow keeps."""
    whole = FORMATS["PNG"]
    texts = 70 * png_chunk(b"zTXt", b"history\0\0" + zlib.compress(bytes(MEGABYTE - 1)))
    assert np.array_equal(decode(whole[:PNG_HEADER_END] + texts + whole[PNG_HEADER_END:], LIMITS).pixels, plain(whole))


def test_a_png_with_unreadable_metadata_is_turned_as_its_readable_ones_say() -> None:
    upright = fruit(64, 48)
    stored, exif = held(upright, 6)
    whole = encoded(stored, "PNG", exif=exif)
    data = whole[:PNG_HEADER_END] + METADATA["large profile"] + whole[PNG_HEADER_END:]
    assert np.array_equal(decode(data, LIMITS).pixels, plain(encoded(upright, "PNG")))


@pytest.mark.parametrize("name", METADATA)
def test_what_is_wrong_with_pixels_is_found_beside_unreadable_metadata(name: str) -> None:
    whole = FORMATS["PNG"]
    data = whole[:PNG_HEADER_END] + METADATA[name] + whole[PNG_HEADER_END:]
    assert rejection(data[: len(data) - len(whole) // 2]).reason is Reason.CORRUPT
    assert rejection(data, Limits(LIMITS.max_bytes, 64 * 63)).reason is Reason.TOO_MANY_PIXELS


def test_a_wrong_checksum_of_what_describes_the_pixels_is_corrupt() -> None:
    whole = FORMATS["PNG"]
    data = whole[:8] + damaged(whole[8:PNG_HEADER_END]) + METADATA["large text"] + whole[PNG_HEADER_END:]
    assert rejection(data).reason is Reason.CORRUPT


@pytest.mark.parametrize("stub", [b"\xff\xe0\0\x07JFIF\0", b"\xff\xe2\0\x0eICC_PROFILE\0", b"\xff\xee\0\x07Adobe"])
def test_metadata_of_a_jpeg_that_break_off_do_not_reject_it(stub: bytes) -> None:
    for name in ("JPEG", "CMYK JPEG"):
        whole = FORMATS[name]
        assert np.array_equal(decode(whole[:2] + stub + whole[2:], LIMITS).pixels, plain(whole))
        assert rejection(whole[:2] + stub + whole[2:-100]).reason is Reason.CORRUPT


@pytest.mark.parametrize(
    "start", [b"\r\n", b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 1234\r\n\r\n", bytes(4000)]
)
def test_where_a_jpeg_begins_that_does_not_begin_a_file_is_said(start: bytes) -> None:
    rejected = rejection(start + FORMATS["JPEG"])
    assert rejected.reason is Reason.NOT_AN_IMAGE
    assert rejected.detail.endswith(f"; a JPEG begins at byte {len(start)}")


def reframed(marker: int, bits: int = 8, components: int = 3) -> bytes:
    """A JPEG whose header states another kind of frame."""
    whole = FORMATS["JPEG"]
    frame = whole.index(b"\xff\xc0")
    return (
        whole[: frame + 1]
        + bytes([marker])
        + whole[frame + 2 : frame + 4]
        + bytes([bits])
        + whole[frame + 5 : frame + 9]
        + bytes([components])
        + whole[frame + 10 :]
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (reframed(0xC1, bits=12), "its samples have 12 bits"),
        (reframed(0xC3, bits=16), "its samples have 16 bits"),
        (reframed(0xC0, components=2), "it has 2 components"),
        (reframed(0xC5), "hierarchical"),
        (reframed(0xC7), "lossless"),
        (reframed(0xCB), "lossless"),
        (reframed(0xF7), "JPEG-LS"),
        (
            FORMATS["PNG"][:8]
            + png_chunk(b"CgBI", bytes(4))
            + FORMATS["PNG"][8:PNG_HEADER_END]
            + png_chunk(b"IDAT", zlib.compress(bytes(64 * 193), wbits=-15)),
            "Apple's own kind",
        ),
        (FORMATS["BMP"][:28] + b"\2" + FORMATS["BMP"][29:], "Unsupported BMP pixel depth"),
        (FORMATS["BMP"][:30] + b"\5" + FORMATS["BMP"][31:], "Unsupported BMP compression"),
    ],
)
def test_what_is_whole_and_not_decoded_is_unsupported_and_not_corrupt(data: bytes, words: str) -> None:
    rejected = rejection(data)
    assert rejected.reason is Reason.UNSUPPORTED_FORMAT
    assert words in rejected.detail


def avif(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "AVIF", quality=95, subsampling="4:4:4", **options)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("save", [avif, heic])
def test_avif_and_heic_are_turned_once(save: Save, orientation: int) -> None:
    """Their decoders, or the containers, turn them; what EXIF says beside that is not to be obeyed again."""
    upright = fruit(64, 48)
    stored, exif = held(upright, orientation)
    picture = decode(save(stored, exif=exif.tobytes()), LIMITS)
    assert (picture.width, picture.height) == (64, 48)
    assert mean_difference(picture.pixels, plain(encoded(upright, "PNG"))) < 2


def test_metadata_of_an_avif_neither_turn_nor_reject_it() -> None:
    """Of orientation, only what the container says counts."""
    expected = decode(avif(fruit(64, 48)), LIMITS)
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    described = avif(fruit(64, 48), exif=exif.tobytes())
    begin = described.index(b"MM\0*")
    for data in (
        avif(fruit(64, 48), xmp=b'<rdf:Description tiff:Orientation="6"/>'),
        described,
        described[:begin] + b"rubb" + described[begin + 4 :],
        described[: begin + 4] + b"\xff\xff\xff\xff" + described[begin + 8 :],
    ):
        picture = decode(data, LIMITS)
        assert np.array_equal(picture.pixels, expected.pixels)
        assert (picture.width, picture.height) == (64, 48)


@pytest.mark.parametrize("save", [avif, heic])
def test_avif_and_heic_with_transparency_gray_or_frames_look_like_others(save: Save) -> None:
    expected = plain(encoded(fruit(), "PNG"))
    transparent = fruit()
    transparent.putalpha(100)
    for data in (save(transparent), save(fruit(), save_all=True, append_images=[fruit(kind="Plum")])):
        assert mean_difference(decode(data, LIMITS).pixels, expected) < 2
    gray = decode(save(fruit().convert("L")), LIMITS)
    assert mean_difference(gray.pixels, plain(encoded(fruit().convert("L"), "PNG"))) < 2


def test_a_heic_is_recognised_by_content_and_obeys_the_limits() -> None:
    data = heic(fruit())
    assert decode(data, Limits(len(data), 64 * 64)).pixels.shape == (224, 224, 3)
    assert rejection(data, Limits(len(data), 64 * 64 - 1)).reason is Reason.TOO_MANY_PIXELS
    for length in (len(data) // 3, len(data) - 1):
        assert rejection(data[:length]).reason is Reason.CORRUPT
    for major in (b"mif1", b"msf1", b"heix"):
        assert decode(data[:8] + major + data[12:], LIMITS).width == 64


@pytest.mark.parametrize(
    "content", [heic(fruit()), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"\0\0\0\x10ftypmif1\0\0\0\0"]
)
def test_a_heic_without_its_decoder_is_told_how_to_get_it(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    rejected = rejection(content)
    assert rejected.reason is Reason.UNSUPPORTED_FORMAT
    assert rejected.detail.endswith("pip install 'picture-features[heic]'")


def test_an_avif_is_one_by_any_of_its_brands() -> None:
    data = FORMATS["AVIF"]
    assert b"avif" in data[16:32]
    assert np.array_equal(decode(data[:8] + b"mif1" + data[12:], LIMITS).pixels, decode(data, LIMITS).pixels)


@pytest.mark.parametrize("save", [avif, heic])
def test_damaged_avif_and_heic_are_a_picture_or_rejected(save: Save) -> None:
    whole = save(fruit())
    random = np.random.default_rng(3)
    for _ in range(100):
        data = bytearray(whole)
        for position in (random.random(4) ** 2 * len(data)).astype(int):
            data[position] = random.integers(256)
        outcome(bytes(data), Limits(10**6, 10**6))


SHORT_OF_MEMORY = """
import resource
import sys
from pathlib import Path

from streaming.features.imaging import Limits, Rejected, decode

mebibytes, *names = sys.argv[1:]
pictures = [Path(name).read_bytes() for name in names]
for data in pictures:
    decode(data, Limits(2**26, 50_000_000))
pages = int(Path("/proc/self/statm").read_text().split()[5])
resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + int(mebibytes) * 2**20, -1))
for data in pictures:
    try:
        decode(data, Limits(2**26, 50_000_000))
        print("picture", flush=True)
    except MemoryError:
        print("memory", flush=True)
    except Rejected as rejected:
        print(rejected, flush=True)
"""


def test_want_of_memory_is_not_called_damage(tmp_path: Path) -> None:
    """The codecs of AVIF and HEIC do not tell them apart. libde265's thread may find none for itself: glibc ends it."""
    pictures = tmp_path / "avif", tmp_path / "heic"
    for path, save in zip(pictures, (avif, heic), strict=True):
        path.write_bytes(save(fruit(800)))
    said = set[str]()
    for mebibytes in ("1", "3", "5", "7", "20"):
        command = [sys.executable, "-c", SHORT_OF_MEMORY, mebibytes, *map(str, pictures)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode in {0, NO_MEMORY_FOR_A_THREAD}, ended.stderr
        assert not ended.returncode or "cannot allocate memory" in ended.stderr
        said.update(ended.stdout.splitlines())
    assert said == {"memory", "picture"}
