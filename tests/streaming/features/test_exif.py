"""What EXIF says of when and by which camera, and what is not taken from it."""

from __future__ import annotations

import io
import struct
import tracemalloc
from datetime import datetime

import pytest
from PIL import ExifTags, Image

from streaming.features.exif import Exif
from streaming.features.imaging import Limits, decode
from tests.support.data import shared_data

_LIMITS = Limits(max_bytes=2**20, max_pixels=10**6)
_TIME, _FRACTION, _OFFSET = (
    ExifTags.Base.DateTimeOriginal,
    ExifTags.Base.SubsecTimeOriginal,
    ExifTags.Base.OffsetTimeOriginal,
)


def _picture(tags: dict[int, object], inner: dict[int, object], kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif.update(tags)
    if inner:
        exif.get_ifd(ExifTags.IFD.Exif).update(inner)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind, exif=exif.tobytes())
    return file.getvalue()


def _read(data: bytes) -> Exif:
    return decode(data, _LIMITS).exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ({_TIME: "2026:01:31 23:59:58"}, "2026-01-31T23:59:58"),
        ({_TIME: "2026:01:31 23:59:58", _OFFSET: "+01:00"}, "2026-01-31T23:59:58+01:00"),
        ({_TIME: "2026:01:31 23:59:58", _FRACTION: "25 ", _OFFSET: "-09:30"}, "2026-01-31T23:59:58.25-09:30"),
        ({_TIME: "0000:00:00 00:00:00"}, None),
        ({_TIME: "2026:02:30 00:00:00"}, None),
        ({_TIME: "    :  :     :  :  "}, None),
        ({_TIME: "yesterday"}, None),
        ({_TIME: "2026:01:31 23:59:58", _OFFSET: "   :  ", _FRACTION: "x"}, "2026-01-31T23:59:58"),
        ({_TIME: "2026:01:31 23:59:58", _OFFSET: "+99:99"}, None),
        ({_OFFSET: "+01:00"}, None),
        ({}, None),
    ],
)
def test_the_time_is_the_cameras_own(inner: dict[int, object], expected: str | None, kind: str) -> None:
    """With fraction and offset where it has them, and never completed."""
    found = _read(_picture({}, inner, kind)).captured_at
    assert found == expected
    if found:
        datetime.fromisoformat(found)


@pytest.mark.parametrize(
    ("make", "model", "expected"),
    [
        ("Canon", "Canon DIGITAL IXUS\0", "Canon DIGITAL IXUS"),
        ("RICOH      ", "RDC-5300       ", "RICOH RDC-5300"),
        ("SONY\0\0", None, "SONY"),
        (None, "E950", "E950"),
        ("\0\0", "  ", None),
        (None, None, None),
        ("a\x07b", "\x1b[2J", None),
        ("m" * 1000, "n", "m" * 100),
    ],
)
def test_the_camera_is_make_and_model(make: str | None, model: str | None, expected: str | None) -> None:
    """Without what pads them, the make once; what cannot be printed is nothing."""
    tags = {ExifTags.Base.Make: make, ExifTags.Base.Model: model}
    assert _read(_picture({tag: text for tag, text in tags.items() if text is not None}, {})).camera == expected


@pytest.mark.parametrize("name", ["fruits360_multi", "exif_samples"])
def test_real_cameras_say_when_and_which(name: str) -> None:
    """Nearly all of those in the shared data; none of them says where on earth it was set."""
    files = [file for file in sorted((shared_data() / "camera" / name).iterdir()) if file.suffix == ".jpg"]
    limits = Limits(max_bytes=2**25, max_pixels=10**8)
    found = [decode(file.read_bytes(), limits).exif for file in files]
    assert sum(one.captured_at is not None for one in found) >= len(files) - 3
    assert all((one.captured_at is None) == (one.camera is None) for one in found)
    assert all(datetime.fromisoformat(one.captured_at).tzinfo is None for one in found if one.captured_at)


def test_hostile_metadata_are_null_and_reject_nothing() -> None:
    """A pointer to itself, to beyond the end, and values of another type."""
    sound = _picture({ExifTags.Base.Make: "Maker", ExifTags.Base.Orientation: 6}, {_TIME: "2026:01:31 23:59:58"})
    pointer = struct.pack(">HHI", ExifTags.IFD.Exif, 4, 1)
    place = sound.index(pointer) + len(pointer)
    for target in (0, 1, 8, 60_000, 2**32 - 1):
        found = _read(sound[:place] + struct.pack(">I", target) + sound[place + 4 :])
        assert found.orientation == 6
        assert found.captured_at is None
    assert _read(_picture({ExifTags.Base.Orientation: 99}, {_TIME: "2026:01:31 23:59:58"})).orientation == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_names_its_bytes_again_and_again_takes_no_memory(kind: str) -> None:
    """10,000 entries that have 100 kB each as their value; Pillow would copy them for each."""
    entries = [struct.pack("<HHIHH", ExifTags.Base.Orientation, 3, 1, 6, 0)]
    entries += [struct.pack("<HHII", 1000 + number, 7, 100_000, 0) for number in range(10_000)]
    exif = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries)
    file = io.BytesIO()
    if kind == "JPEG":  # in several segments
        Image.new("RGB", (8, 8)).save(file, kind)
        parts = [b"Exif\0\0" + exif[place : place + 60_000] for place in range(0, len(exif), 60_000)]
        segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
        data = file.getvalue()[:2] + segments + file.getvalue()[2:]
    else:
        Image.new("RGB", (8, 8)).save(file, kind, exif=exif)
        data = file.getvalue()
    _read(data)  # which imports a plugin
    tracemalloc.start()
    try:
        assert _read(data) == Exif(orientation=6)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data)
    finally:
        tracemalloc.stop()


def test_exif_of_megabytes_is_not_searched() -> None:
    """Only for how the picture lies: a small file could make a worker read gigabytes."""
    large = _picture(
        {ExifTags.Base.Orientation: 6, ExifTags.Base.Make: "m" * 200_000}, {_TIME: "2026:01:31 23:59:58"}, "PNG"
    )
    assert _read(large) == Exif(orientation=6)
