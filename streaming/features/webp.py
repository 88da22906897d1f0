"""Rebuilds a WebP without what is not its picture, in a container of the right length.

https://developers.google.com/speed/webp/docs/riff_container
"""

from __future__ import annotations

import struct

_CHUNK = struct.Struct("<4sI")
_HEADER = 12
"""RIFF, the length of all that follows, WEBP."""

_EXTENDED, _EXIF = b"VP8X", b"EXIF"
_PICTURE = frozenset({b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"})
_MOST_CHUNKS = 65_536
"""Of an animation with as many pictures as anybody has, and few enough to be read at once."""
_FLAGS = {_EXIF: 0x08, b"XMP ": 0x04, b"ICCP": 0x20}


def with_picture_only(data: bytes) -> bytes | None:
    """The same picture with its EXIF, if that is whole, and without other metadata; None if nothing changes.

    libwebp rejects a picture for a wrong length in the header, and for a last chunk that is cut off, whatever it is.
    """
    chunks = _chunks(data)
    has_exif = any(kind == _EXIF for kind, _ in chunks)
    body = b"".join(
        _chunk(kind, _with_flags(content, has_exif=has_exif) if kind == _EXTENDED else content)
        for kind, content in chunks
    )
    rebuilt = _chunk(b"RIFF", b"WEBP" + body)
    return rebuilt if rebuilt != data else None


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks to keep, if they are whole."""
    chunks: list[tuple[bytes, bytes]] = []
    position = _HEADER
    while position + _CHUNK.size <= len(data) and len(chunks) < _MOST_CHUNKS:
        kind, length = _CHUNK.unpack_from(data, position)
        start, end = position + _CHUNK.size, position + _CHUNK.size + length
        if end <= len(data) and (kind in _PICTURE or kind in (_EXTENDED, _EXIF)):
            chunks.append((kind, data[start:end]))
        position = end + length % 2
    return chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    return _CHUNK.pack(kind, len(content)) + content + b"\0" * (len(content) % 2)


def _with_flags(extended: bytes, *, has_exif: bool) -> bytes:
    absent = sum(_FLAGS.values()) - (_FLAGS[_EXIF] if has_exif else 0)
    return bytes((extended[0] & ~absent & 0xFF,)) + extended[1:] if extended else extended
