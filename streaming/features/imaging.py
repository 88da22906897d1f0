"""Decodes bytes to the tensor that the backbone takes: the one decoder of fit, stream and replay.

Bytes of an accepted format that decode whole are a picture, whatever the file's name. (Whole as far as the codecs say:
damage that libjpeg or libtiff conceals is not seen here.)

- A format is recognised by content. Of several frames or pages, the first counts.
- EXIF rotation is applied; in AVIF and HEIC, that of the container instead. Metadata that cannot be read leaves a
  picture as it lies, as viewers do, and never rejects it.
- Colour is Pillow's `convert("RGB")`: transparency is dropped, and the colours beneath it count.
- 12-bit and 16-bit gray is scaled to 8 bits, as Pillow does with 16-bit colour; its own conversion of gray clips, which
  makes nearly everything white. Samples without a fixed black and white (signed, 32-bit, floating point) are refused.
- A JPEG of at least four times the backbone's side, each way, is decoded at 1/2, 1/4 or 1/8 scale:
  docs/adr/0001-jpeg-draft.md.

Pillow's format classes are called directly instead of through `Image.open`, which imports all of Pillow's plugins,
hides the cause where one refuses its file, and follows the index of a multi-picture JPEG whose first frame is all
that counts.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from streaming.features import jpeg, tiff
from streaming.features.exif import Exif, read_exif
from streaming.features.formats import Format, Rejected, recognise, unsupported, without_bad_metadata
from streaming.features.reasons import Reason

__all__ = ["DEFAULT_SIDE", "Limits", "Picture", "Rejected", "decode", "decode_damaged", "thumbnail"]

DEFAULT_SIDE = 224
"""Width and height in pixels of the input of a backbone for which no other side was asked."""

# Pillow's complaints about a picture belong into its row, not on the worker's stderr. Set once, because warning filters
# belong to the process: changing them around each picture is not thread-safe. (libtiff writes its complaints to stderr
# itself, and Pillow cannot be told to stop it.)
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

_MAX_SCANS = 100
"""Encoders write about ten scans into a progressive JPEG. Each costs a pass over all pixels, 30 ms at 50 megapixels,
and can be 11 bytes long: without a limit, one file of ten megabytes would hold a worker for hours."""

_BYTES_PER_PIXEL = 21
"""The most memory that decoding takes: by HEIC and AVIF of 10 bits, 4:4:4 and with transparency; WebP takes 16."""

_START_OF_JPEG, _END_OF_JPEG = b"\xff\xd8", b"\xff\xd9"

_OUT_OF_MEMORY = re.compile(r"^Out of memory|: Out of memory|^Memory allocation error:.*: Allocating \d+ bytes failed")
"""Messages of libavif and libheif, in exceptions of other types, when there is not enough memory."""

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that puts a picture upright, by the value of the EXIF tag Orientation (EXIF 2.32, 4.6.4.A)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest picture that is accepted. Pillow itself refuses more than 178,956,970 pixels in TIFF and GIF."""

    max_bytes: int
    max_pixels: int

    @property
    def memory(self) -> int:
        """Bytes of memory that suffice to decode the largest picture: twice the file, its pixels, and a reserve."""
        return 2 * self.max_bytes + _BYTES_PER_PIXEL * self.max_pixels + 256 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: (side, side, 3) float32 in [-1, 1], RGB, as Keras's `mobilenet_v2.preprocess_input` gives it.
        width: of the picture as displayed, in pixels.
        height: of the picture as displayed, in pixels.
        exif: what it says of itself.
    """

    pixels: NDArray[np.float32]
    width: int
    height: int
    exif: Exif


def decode(data: bytes, limits: Limits, side: int = DEFAULT_SIDE, out: NDArray[np.float32] | None = None) -> Picture:
    """The picture in `data`, ready for the backbone. Thread-safe. Raises nothing but the following.

    Args:
        data: the bytes of a file.
        limits: of a picture.
        side: width and height of the backbone's input.
        out: (side, side, 3), which becomes the pixels of the picture; a new array by default. Memory that is used again
            saves a tenth of the time of a small picture.

    Raises:
        Rejected: `data` is not an acceptable picture.
        MemoryError: there is not enough memory, for whatever reason.
    """
    if not data:
        raise Rejected(Reason.EMPTY, "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise Rejected(Reason.TOO_MANY_BYTES, f"{len(data)} bytes; imaging.max_bytes allows {limits.max_bytes}")
    found = recognise(data)
    out = np.empty((side, side, 3), np.float32) if out is None else out
    outcome = _attempt(found, data, limits, out)
    if isinstance(outcome, Rejected) and outcome.reason is Reason.CORRUPT:
        readable = without_bad_metadata(found, data)
        if readable:
            outcome = _attempt(found, readable, limits, out)
    if isinstance(outcome, Rejected):
        raise outcome
    return outcome


def decode_damaged(data: bytes, limits: Limits) -> Picture:
    """As much as there is of a JPEG that was cut off, gray below; for people, not for features.

    Raises:
        Rejected, MemoryError: as `decode`; also for anything but a JPEG that was cut off.
    """
    return decode(data + _END_OF_JPEG if data.startswith(_START_OF_JPEG) else data, limits)


def thumbnail(picture: Picture, side: int) -> bytes:
    """A decoded picture as a small JPEG, upright and in its own proportions, without any metadata.

    Args:
        picture: to show.
        side: of the longer side, in pixels; a decoded picture has no more than its own side.
    """
    levels = np.rint((picture.pixels + 1) * 127.5).astype(np.uint8)
    scale = side / max(picture.width, picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    buffer = io.BytesIO()
    Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _attempt(found: Format, data: bytes, limits: Limits, out: NDArray[np.float32]) -> Picture | Rejected:
    """Decode; a rejection is returned, not raised: its traceback would keep the frame during a second attempt."""
    try:
        return _decode(found.plugin(io.BytesIO(data)), data, limits, out)
    except MemoryError:
        raise
    except Rejected as rejected:
        return rejected.with_traceback(None)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Rejected(Reason.TOO_MANY_PIXELS, str(error))
    except Exception as error:  # any other exception of a plugin is caused by the file
        if _OUT_OF_MEMORY.search(str(error)):
            raise MemoryError(str(error)) from error
        if why := unsupported(found, data, error):
            return Rejected(Reason.UNSUPPORTED_FORMAT, f"this {found.name} cannot be decoded: {why}")
        return Rejected(Reason.CORRUPT, f"this {found.name} does not decode: {_one_line(error)}")


def _decode(image: Image.Image, data: bytes, limits: Limits, out: NDArray[np.float32]) -> Picture:
    """The rest of `decode`, for an opened picture. It holds one reference to the frame, so that each step frees it."""
    width, height = image.size
    side = len(out)
    if width * height > limits.max_pixels:
        raise Rejected(
            Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels; imaging.max_pixels allows {limits.max_pixels}"
        )
    if image.mode in ("I", "F"):
        raise Rejected(Reason.UNSUPPORTED_FORMAT, f"this TIFF cannot be decoded: {tiff.WITHOUT_WHITE}")
    if isinstance(image, JpegImageFile):
        _refuse_scan_bomb(image, data)
        image.draft(None, (2 * side, 2 * side))
    elif isinstance(image, TiffImageFile):
        tiff.prepare(image)
    _load(image)
    if image.format == "AVIF":
        # That of XMP does not count beside the container's, which Pillow has put in the place of EXIF.
        image.info.pop("xmp", None)
    exif = read_exif(image)
    image = _rgb(image)
    if exif.orientation in _TRANSPOSITIONS:
        image = image.transpose(_TRANSPOSITIONS[exif.orientation])
    if exif.orientation >= 5:  # noqa: PLR2004 - 5 to 8 lie on their side
        width, height = height, width
    np.copyto(out, np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)))
    out /= 127.5
    out -= 1.0
    return Picture(out, width, height, exif)


def _load(image: Image.Image) -> None:
    width, height = image.size
    try:
        image.load()
    except Exception:
        if image.format in ("AVIF", "HEIF"):
            # Their codecs report damage when memory is short. This raises MemoryError then, and is free otherwise.
            np.empty(_BYTES_PER_PIXEL * width * height, np.uint8)
        raise
    if image.size != (width, height):  # libheif does not report it
        raise ValueError(f"its header says {width} x {height} pixels, and it has {image.size[0]} x {image.size[1]}")


def _refuse_scan_bomb(image: JpegImageFile, data: bytes) -> None:
    assert image.fp is not None
    first_scan = data.rfind(b"\xff\xda", 0, image.fp.tell())
    if "progressive" not in image.info and data[first_scan + 4] >= image.layers:
        return  # the one scan has all components, and libjpeg reads no other
    if jpeg.has_more_scans(data, _MAX_SCANS):
        raise Rejected(Reason.CORRUPT, f"a JPEG of more than {_MAX_SCANS} scans; at most {_MAX_SCANS} are decoded")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image  # convert() would copy
    if image.mode.startswith("I;16"):
        samples = np.asarray(image)
        levels = tiff.gray(image, samples) if isinstance(image, TiffImageFile) else (samples >> 8).astype(np.uint8)
        image = Image.fromarray(levels)
    image.info.pop("transparency", None)  # has no effect on RGB, and Pillow warns of some of its forms
    return image.convert("RGB")


def _one_line(error: Exception) -> str:
    """The message of an exception of Pillow, with its type where the message alone is not clear."""
    if isinstance(error, SyntaxError) and isinstance(error.__cause__, (IndexError, EOFError, struct.error)):
        return "its header breaks off"  # clearer than Pillow's "index out of range" and the like
    line = " ".join(str(error).split())[:200]
    if line and isinstance(error, (OSError, SyntaxError, ValueError)):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
