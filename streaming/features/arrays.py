"""Named arrays as the bytes of one npz file.

It owns the file format, which never holds pickled objects; it must not know what the arrays mean.
"""

from __future__ import annotations

import io
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from conf.errors import BundleError


def pack(**arrays: NDArray[np.float64] | int) -> bytes:
    """The arrays as a file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type] # NumPy's stubs take the names for its own parameters
    return buffer.getvalue()


def unpack(data: bytes, *names: str) -> tuple[NDArray[np.float64], ...]:
    """The arrays of these names, bit for bit.

    Raises:
        BundleError: if `data` is no such file.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return tuple(arrays[name] for name in names)
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise BundleError(f"the arrays {', '.join(names)} cannot be read: {error}") from error
