"""Removes metadata from a PNG that keep Pillow from decoding its pixels."""

from __future__ import annotations

import io
import struct

from PIL.PngImagePlugin import PngStream

_HEADER = struct.Struct(">I4s")
_SIGNATURE = 8
_ANCILLARY = 0x20
"""The bit of a chunk's type that says that the picture can be shown without it (PNG 1.2, 3.3)."""

_MAY_TELL_ORIENTATION = frozenset({b"eXIf", b"iTXt", b"tEXt", b"zTXt"})


def without_unreadable_metadata(data: bytes) -> bytes | None:
    """The same picture with only the metadata that are useful and that Pillow can read; None if all are.

    Pillow rejects a picture for a profile or text of more than a megabyte, for a wrong checksum, and for much else in
    metadata. Its limits still apply, and damaged pixels stay damaged.
    """
    reader = PngStream(io.BytesIO(data))
    kept, position = [data[:_SIGNATURE]], _SIGNATURE
    while position + _HEADER.size <= len(data):
        length, kind = _HEADER.unpack_from(data, position)
        end = position + _HEADER.size + length + 4
        if end > len(data) or not kind[0] & _ANCILLARY or _is_of_use(reader, kind, position + _HEADER.size, length):
            kept.append(data[position:end])
        position = end
    rest = b"".join(kept)
    return rest if len(rest) < len(data) else None


def _is_of_use(reader: PngStream, kind: bytes, position: int, length: int) -> bool:
    if kind not in _MAY_TELL_ORIENTATION or reader.fp is None:
        return False
    reader.fp.seek(position)
    try:
        reader.crc(kind, reader.call(kind, position, length))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - odd metadata make Pillow's parser raise almost anything
        return False
    return True
