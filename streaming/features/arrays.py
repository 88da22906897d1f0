"""Named arrays as the bytes of one npz file, which never holds pickled objects."""

from __future__ import annotations

import io
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from conf.errors import BundleError


def pack(**arrays: NDArray[Any] | int) -> bytes:
    """The arrays as the bytes of an npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type] # NumPy's stubs take the names for its own parameters
    return buffer.getvalue()


def unpack(data: bytes, *names: str) -> tuple[NDArray[Any], ...]:
    """The arrays of these names, bit for bit.

    Raises:
        BundleError: `data` is not such a file, or lacks one of the arrays.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return tuple(arrays[name] for name in names)
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise BundleError(f"the arrays {', '.join(names)} cannot be read: {error}") from error
