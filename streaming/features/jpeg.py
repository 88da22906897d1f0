"""Reads the segments of a JPEG, for checks before decoding and for explanations of a decoder's error."""

from __future__ import annotations

import re
from collections.abc import Iterator

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Neither a byte of a scan that is 0xff, which a zero follows, nor a restart marker, which stands within a scan."""

_TEM, _SOI, _EOI, _SOS = 0x01, 0xD8, 0xD9, 0xDA
_METADATA = frozenset([*range(0xE0, 0xF0), 0xFE])
_STUB = 14
"""Bytes of body that a segment of metadata needs for Pillow and libjpeg to regard what they know of (JFIF, 14)."""

_DECODED_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA})
_OTHER_FRAMES = {
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical and lossless",
    0xCB: "lossless with arithmetic coding",
    0xCD: "hierarchical with arithmetic coding",
    0xCE: "hierarchical with arithmetic coding",
    0xCF: "hierarchical and lossless with arithmetic coding",
    0xF7: "JPEG-LS",
}
"""The kinds of frame by their marker (ISO 10918-1, table B.1); libjpeg does not decode these."""

_BITS = 8
_COMPONENTS = (1, 3, 4)


def has_more_scans(data: bytes, limit: int) -> bool:
    """Whether there are more than `limit` scans up to the end of the picture; bytes after it do not count."""
    if data.count(b"\xff\xda") <= limit:  # as in nearly every file; ten times as fast
        return False
    scans = 0
    for marker, *_ in _segments(data):
        scans += marker == _SOS
        if scans > limit:
            return True
    return False


def without_stubs(data: bytes) -> bytes | None:
    """The same picture without segments of metadata that are too short to say anything; None if there are none.

    Pillow takes them for the end of the file.
    """
    kept, end = [], 0
    for marker, start, stop in _segments(data):
        if marker == _SOS:
            break
        if marker in _METADATA and stop - start - 4 < _STUB:
            # libjpeg, which decides on the colour, understands an Adobe segment of 12 bytes.
            if marker == 0xEE and stop - start - 4 >= 12:  # noqa: PLR2004 - see above
                continue
            kept.append(data[end:start])
            end = stop
    return b"".join([*kept, data[end:]]) if kept else None


def unsupported(data: bytes) -> str | None:
    """The reason why libjpeg or Pillow does not decode this kind of frame; None if it does."""
    for marker, start, _ in _segments(data):
        if marker in _OTHER_FRAMES:
            return f"its frame is {_OTHER_FRAMES[marker]}"
        if marker in _DECODED_FRAMES:
            header = data[start + 4 : start + 10]
            if header and header[0] != _BITS:
                return f"its samples have {header[0]} bits, and only {_BITS} are decoded"
            if len(header) > 5 and header[5] not in _COMPONENTS:  # noqa: PLR2004 - after bits, height and width
                return f"it has {header[5]} components, and only 1, 3 or 4 are decoded"
            return None
        if marker == _SOS:
            return None
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the end of the picture, as libjpeg finds them."""
    position = 2
    while found := _MARKER.search(data, position):
        marker, position = found.group()[1], found.end()
        if marker == _EOI:
            return
        if marker in (_TEM, _SOI):
            continue
        position += max(2, int.from_bytes(data[position : position + 2]))
        yield marker, found.start(), position
