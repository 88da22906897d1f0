"""Bytes to the tensor that the backbone takes: the one decoder of fit, stream and replay.

It owns what counts as a picture (formats, limits, rotation, colour, size) and what is said of one that does not. It
must not know where bytes come from or what becomes of a picture.

What is of an accepted format and decodes whole is a picture, whatever its name. (Whole as far as the codecs say: damage
that libjpeg or libtiff conceals is not seen here.)

- A format is recognised by content. Of several frames or pages, the first counts.
- EXIF rotation is applied. Metadata that cannot be read leaves a picture as it lies, as viewers do.
- Colour is Pillow's `convert("RGB")`: transparency is dropped, and the colours beneath it count.
- 16-bit gray is scaled to 8 bits, as Pillow does with 16-bit colour; its own conversion of gray clips, which makes
  nearly everything white. Samples without a fixed black and white (signed, 32-bit, floating point) are refused.
- A JPEG of at least 896 pixels on each side is decoded at 1/2, 1/4 or 1/8 scale: docs/adr/0001-jpeg-draft.md.

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
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from streaming.features.schema import Reason

SIDE = 224
"""Width and height of the backbone's input in pixels."""

# What Pillow has to say of a picture goes into its row, not to the worker's stderr. Set once, because warning filters
# belong to the process: changing them around each picture is not safe among threads. (libtiff writes its complaints
# to stderr itself, and Pillow cannot be told to stop it.)
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

_ACCEPTED: tuple[tuple[str, re.Pattern[bytes], type[ImageFile]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    ("PNG", re.compile(rb"\x89PNG"), PngImageFile),
    ("WebP", re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImageFile),
    # "BM" begins many a text, so the length of the second header has to be one that exists.
    ("BMP", re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), BmpImageFile),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    ("GIF", re.compile(rb"GIF8[79]a"), GifImageFile),
)

_REFUSED: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("HEIC", re.compile(rb".{4}ftyp(?:hei|hev|mif1|msf1)", re.DOTALL)),
    ("AVIF", re.compile(rb".{4}ftypavi", re.DOTALL)),
    ("camera raw", re.compile(rb"II\*\0.{4}CR|IIR[OS]|IIU\0|FUJIFILMCCD-RAW|.{4}ftypcrx", re.DOTALL)),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
    ("JPEG XL", re.compile(rb"\0\0\0\x0cJXL |\xff\x0a")),
    ("icon", re.compile(rb"\0\0[\x01\x02]\0[^\0]|icns")),
    ("Photoshop", re.compile(rb"8BPS")),
    ("SVG", re.compile(rb"\s*(?:<\?xml.{0,1000}?)?<svg", re.DOTALL)),
    ("PostScript", re.compile(rb"%!PS")),
    ("Netpbm", re.compile(rb"P[1-7]\s")),
    ("OpenEXR", re.compile(rb"\x76\x2f\x31\x01")),
    ("QOI", re.compile(rb"qoif")),
)
"""Formats that a reader would call a picture too; looked for first, since a Canon raw file is also a TIFF."""

_ACCEPTED_NAMES = ", ".join(name for name, *_ in _ACCEPTED)

_DRAFT_SIZE = (2 * SIDE, 2 * SIDE)

_MAX_SCANS = 100
"""Encoders write about ten scans into a progressive JPEG. Each costs a pass over all pixels, 30 ms at 50 megapixels,
and can be 75 bytes long: without a limit, one file of ten megabytes would hold a worker for an hour."""

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts a picture upright, by the value of the EXIF tag Orientation (EXIF 2.32, 4.6.4.A)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest picture that is accepted. Pillow itself refuses more than 178,956,970 pixels in TIFF and GIF."""

    max_bytes: int
    max_pixels: int

    @property
    def memory(self) -> int:
        """Bytes that suffice to decode such a picture: twice the file, 16 bytes per pixel (WebP), and some to spare."""
        return 2 * self.max_bytes + 16 * self.max_pixels + 256 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: (224, 224, 3) float32 in [-1, 1], RGB, as Keras's `mobilenet_v2.preprocess_input` gives it.
        width: of the picture as displayed, in pixels.
        height: of the picture as displayed, in pixels.
    """

    pixels: NDArray[np.float32]
    width: int
    height: int


class Rejected(Exception):  # noqa: N818 - an outcome, not an error
    """These bytes are no picture that is accepted.

    Attributes:
        reason: the stable code.
        detail: one readable line.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def decode(data: bytes, limits: Limits) -> Picture:
    """The picture in `data`, ready for the backbone. Safe among threads.

    Raises:
        Rejected: whatever is wrong with `data`.
        MemoryError: there is not enough, for whatever reason. Nothing else is raised.
    """
    if not data:
        raise Rejected(Reason.EMPTY, "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise Rejected(Reason.TOO_MANY_BYTES, f"{len(data)} bytes; imaging.max_bytes allows {limits.max_bytes}")
    name, plugin = _recognise(data)
    try:
        return _decode(plugin(io.BytesIO(data)), data, limits)
    except (Rejected, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Rejected(Reason.TOO_MANY_PIXELS, str(error)) from error
    except Exception as error:  # whatever else a plugin trips over is the file's doing
        raise Rejected(Reason.CORRUPT, f"this {name} does not decode: {_one_line(error)}") from error


def _recognise(data: bytes) -> tuple[str, type[ImageFile]]:
    for name, signature in _REFUSED:
        if signature.match(data):
            raise Rejected(
                Reason.UNSUPPORTED_FORMAT, f"{name} pictures are not accepted; convert them to one of {_ACCEPTED_NAMES}"
            )
    for name, signature, plugin in _ACCEPTED:
        if signature.match(data):
            return name, plugin
    raise Rejected(Reason.NOT_AN_IMAGE, f"begins with {data[:16]!r}, unlike any of {_ACCEPTED_NAMES}")


def _decode(image: Image.Image, data: bytes, limits: Limits) -> Picture:
    """The rest of `decode`, for an opened picture. It holds one reference to the frame, so that each step frees it."""
    width, height = image.size
    if width * height > limits.max_pixels:
        raise Rejected(
            Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels; imaging.max_pixels allows {limits.max_pixels}"
        )
    if image.mode in ("I", "F"):
        raise Rejected(Reason.UNSUPPORTED_FORMAT, "its samples (signed, 32-bit or floating point) have no fixed white")
    if isinstance(image, JpegImageFile):
        _refuse_scan_bomb(image, data)
        image.draft(None, _DRAFT_SIZE)
    image.load()
    orientation = _orientation(image)
    image = _rgb(image)
    if orientation in _TRANSPOSITIONS:
        image = image.transpose(_TRANSPOSITIONS[orientation])
    if orientation >= 5:  # noqa: PLR2004 - 5 to 8 lie on their side
        width, height = height, width
    pixels = np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels /= 127.5
    pixels -= 1.0
    return Picture(pixels, width, height)


def _refuse_scan_bomb(image: JpegImageFile, data: bytes) -> None:
    if "progressive" not in image.info:
        return
    scans = data.count(b"\xff\xda")
    if scans > _MAX_SCANS:
        raise Rejected(Reason.CORRUPT, f"a progressive JPEG of {scans} scans; at most {_MAX_SCANS} are decoded")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image  # convert() would copy
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image.info.pop("transparency", None)  # has no effect on RGB, and Pillow warns of some of its forms
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF tag Orientation, 1 to 8; 1, which is upright, where there is none or it cannot be read."""
    try:
        orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - odd metadata make Pillow's parser raise almost anything
        return 1
    return orientation if orientation in _TRANSPOSITIONS else 1


def _one_line(error: Exception) -> str:
    """The message of an exception of Pillow; with its type, where the message alone says nothing."""
    if isinstance(error, SyntaxError) and isinstance(error.__cause__, (IndexError, EOFError, struct.error)):
        return "its header breaks off"  # which is how Pillow notices, and words like "index out of range" tell nobody
    line = " ".join(str(error).split())[:200]
    if line and isinstance(error, (OSError, SyntaxError, ValueError)):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
