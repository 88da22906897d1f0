"""Removes the extensions of a GIF, which keep Pillow from decoding its pixels where they are shorter than they must be.

https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

from __future__ import annotations

_SCREEN = 13
"""The header, and the descriptor of the screen."""

_FLAGS = 10
_MOST_BYTES = 1024**2
"""Of extensions; colour profiles and texts are smaller."""
_EXTENSION, _IMAGE = 0x21, 0x2C


def without_extensions(data: bytes) -> bytes | None:
    """The first picture with all that comes before it but extensions; None if there are none.

    Of extensions, only the colour that is transparent counts for a single picture, and this project shows the colour.
    """
    position = start = _SCREEN + _colours(data[_FLAGS]) if len(data) > _SCREEN else len(data)
    while data[position : position + 1] == bytes((_EXTENSION,)):
        position += 2
        while position < min(len(data), start + _MOST_BYTES) and data[position]:  # a sub-block of so many bytes
            position += 1 + data[position]
        position += 1
    if position == start or data[position : position + 1] != bytes((_IMAGE,)):
        return None
    return data[:start] + data[position:]


def _colours(flags: int) -> int:
    """The bytes of the table of colours that a descriptor with these flags announces."""
    return 3 * 2 << (flags & 7) if flags & 0x80 else 0
