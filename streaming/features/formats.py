"""Recognises the format of a picture by its content, and explains why a known format is not accepted.

File names are ignored. A format is either accepted, with the class that decodes it, or refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import AvifImagePlugin
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from streaming.features import gif, jpeg, png, tiff, webp
from streaming.features.reasons import Reason

# There are as many workers as processors, so a codec gets one thread.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

_CONTAINER_BRANDS = 512
"""Bytes at the beginning of an ISO container in which its brands are looked for."""

_JPEG_SEARCH = 4096
"""Bytes in which a JPEG is searched for if the file does not begin with one."""


class Rejected(Exception):  # noqa: N818 - an outcome, not an error
    """The picture is not accepted.

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


@dataclass(frozen=True, slots=True)
class Format:
    """An accepted format.

    Attributes:
        name: as people know it.
        plugin: Pillow's class for it, or a class like Pillow's.
    """

    name: str
    plugin: type[ImageFile]


class _Jpeg(JpegImageFile):
    """Opened without the density, for which Pillow would read all EXIF: see `exif.read_exif` on its size."""

    def _read_dpi_from_exif(self) -> None:
        pass


_ACCEPTED: tuple[tuple[re.Pattern[bytes], Format], ...] = (
    (re.compile(rb"\xff\xd8\xff"), Format("JPEG", _Jpeg)),
    (re.compile(rb"\x89PNG"), Format("PNG", PngImageFile)),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), Format("WebP", WebPImageFile)),
    # "BM" begins many a text, so the length of the second header has to be one that exists.
    (
        re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL),
        Format("BMP", BmpImageFile),
    ),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), Format("TIFF", TiffImageFile)),
    (re.compile(rb"GIF8[79]a"), Format("GIF", GifImageFile)),
)

_AVIF = Format("AVIF", AvifImageFile)

_REFUSED: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("camera raw (CR2)", re.compile(rb"II\*\0.{4}CR", re.DOTALL)),
    ("camera raw (CR3)", re.compile(rb".{4}ftypcrx", re.DOTALL)),
    ("camera raw (CRW)", re.compile(rb"II.{4}HEAPCCDR", re.DOTALL)),
    ("camera raw (IIQ)", re.compile(rb"II\*\0.{4}IIII|MM\0\*.{4}MMMM", re.DOTALL)),
    ("camera raw (MRW)", re.compile(rb"\0MRM")),
    ("camera raw (ORF)", re.compile(rb"IIR[OS]|MMOR")),
    ("camera raw (RAF)", re.compile(rb"FUJIFILMCCD-RAW")),
    ("camera raw (RW2)", re.compile(rb"IIU\0")),
    ("camera raw (X3F)", re.compile(rb"FOVb")),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
    ("JPEG XL", re.compile(rb"\0\0\0\x0cJXL |\xff\x0a")),
    ("JPEG XR", re.compile(rb"II\xbc")),
    ("icon", re.compile(rb"\0\0[\x01\x02]\0[^\0]|icns")),
    ("Photoshop", re.compile(rb"8BPS")),
    ("SVG", re.compile(rb"\s*(?:<\?xml.{0,1000}?)?<svg", re.DOTALL)),
    ("PostScript", re.compile(rb"%!PS")),
    ("Netpbm", re.compile(rb"P[1-7]\s")),
    ("OpenEXR", re.compile(rb"\x76\x2f\x31\x01")),
    ("QOI", re.compile(rb"qoif")),
)
"""Picture formats that are refused by name; tested first, since a Canon raw file is also a TIFF."""

_EXIF_ITEM = re.compile(rb"(infe.{8}(?:..)?)Exif", re.DOTALL)
"""The entry of EXIF among the items of an ISO container (ISO 14496-12, 8.11.6), up to its type."""

_ISPE = re.compile(rb"ispe\0{4}(.{4})(.{4})", re.DOTALL)
"""Width and height of an item (ISO 23008-12, 6.5.3)."""
_AVIF_MAX_PIXELS = 16384**2
_AVIF_MAX_SIDE = 32768

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
)

_ACCEPTED_NAMES = ", ".join([*(accepted.name for _, accepted in _ACCEPTED), _AVIF.name])


def recognise(data: bytes) -> Format:
    """The format of `data`.

    Raises:
        Rejected: the format is not accepted, or is of a kind that would be decoded to a wrong picture.
    """
    for name, signature in _REFUSED:
        if signature.match(data):
            raise _not_accepted(name)
    for signature, accepted in _ACCEPTED:
        if signature.match(data):
            if accepted.name == "TIFF":
                _refuse_misleading_tiff(data)
            return accepted
    brands = _brands(data)
    # A file may state several brands. libavif decides by these two, wherever they stand.
    if brands[:1] in ([b"avif"], [b"avis"]) or (_AVIF_BRANDS.intersection(brands) and b"heic" not in brands):
        return _AVIF
    if _HEIC_BRANDS.intersection(brands):
        return _heic()
    raise Rejected(
        Reason.NOT_AN_IMAGE, f"begins with {data[:16]!r}, unlike any of {_ACCEPTED_NAMES}{_later_jpeg(data)}"
    )


def unsupported(accepted: Format, data: bytes, error: Exception) -> str | None:
    """The reason why undamaged `data` cannot be decoded, given the decoder's error; None if it seems damaged."""
    if accepted.name == "JPEG":
        return jpeg.unsupported(data)
    if accepted.name == "TIFF":
        return tiff.unsupported(data, error)
    if accepted.name == "PNG" and data[12:16] == b"CgBI":
        return "it is one of Apple's own kind (CgBI)"
    if accepted is _AVIF:
        return _unsupported_avif(data)
    message = str(error)
    return message if message.startswith("Unsupported ") else None  # Pillow of BMP, libheif of HEIC


def _unsupported_avif(data: bytes) -> str | None:
    if not AvifImagePlugin.SUPPORTED:
        return "Pillow was built without AVIF"
    for stated in _ISPE.finditer(data):
        width, height = (int.from_bytes(side) for side in stated.groups())
        if width * height > _AVIF_MAX_PIXELS or max(width, height) > _AVIF_MAX_SIDE:
            return f"{width} x {height} pixels are more than libavif takes"
    return None


def without_bad_metadata(accepted: Format, data: bytes) -> bytes | None:
    """The same picture without metadata that may have kept it from being decoded; None if there are none."""
    if accepted.name == "PNG":
        return png.without_unreadable_metadata(data)
    if accepted.name == "JPEG":
        return jpeg.without_stubs(data)
    if accepted.name == "WebP":
        return webp.with_picture_only(data)
    if accepted.name == "GIF":
        return gif.without_extensions(data)
    if accepted is _AVIF:
        without = _EXIF_ITEM.sub(rb"\1none", data)
        return without if without != data else None
    return None


def _not_accepted(name: str) -> Rejected:
    return Rejected(
        Reason.UNSUPPORTED_FORMAT, f"{name} pictures are not accepted; convert them to one of {_ACCEPTED_NAMES}"
    )


def _refuse_misleading_tiff(data: bytes) -> None:
    if raw := tiff.camera_raw(data):
        raise _not_accepted(f"camera raw ({raw})")
    if misleading := tiff.misleading(data):
        raise Rejected(Reason.UNSUPPORTED_FORMAT, f"this TIFF cannot be decoded: {misleading}")


def _heic() -> Format:
    """The format HEIC; its decoder is imported at the first HEIC, as that takes 20 ms and may not be installed."""
    try:
        from pillow_heif import HeifImageFile, options  # noqa: PLC0415 - see above
    except ImportError:
        raise Rejected(
            Reason.UNSUPPORTED_FORMAT,
            "HEIC pictures are decoded only where pillow-heif is installed: pip install 'picture-features[heic]'",
        ) from None
    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    return Format("HEIC", HeifImageFile)


def _brands(data: bytes) -> list[bytes]:
    """The brands of an ISO container (ISO 14496-12, 4.3), the major one first; none if it is not one."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4]), len(data), _CONTAINER_BRANDS)
    return [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]


def _later_jpeg(data: bytes) -> str:
    found = data.find(b"\xff\xd8\xff", 1, _JPEG_SEARCH)
    return f"; a JPEG begins at byte {found}" if found > 0 else ""
