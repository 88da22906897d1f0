"""Keeps converted backbones for the next fit, in `backbones/` of the user's cache.

A file's name is made of all that its content depends on: the weights, and the versions of TensorFlow and Keras. The
folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CONVERTED = ".tflite"
"""The ending of the name of a converted backbone."""

_CANNOT = (OSError, RuntimeError)  # the latter where a user has no home, as in a container

_logger = logging.getLogger(__name__)


def name_of(model: str) -> str | None:
    """The name under which a backbone is kept; None without an installed TensorFlow.

    Args:
        model: the Keras model with its weights, such as by their hash.
    """
    try:
        converter = f"tensorflow {version('tensorflow')} keras {version('keras')}"
    except PackageNotFoundError:
        return None
    return f"{hashlib.sha256(f'{model} {converter}'.encode()).hexdigest()[:32]}{CONVERTED}"


def read(name: str) -> bytes | None:
    """A kept backbone; None if there is none of this name."""
    with suppress(*_CANNOT):
        return (_folder() / name).read_bytes()
    return None


def keep(name: str, flatbuffer: bytes) -> None:
    """Keep a backbone, atomically; if it cannot be written, the next fit converts again."""
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:
            part.write(flatbuffer)
        os.replace(part.name, folder / name)
    except _CANNOT as error:
        _logger.debug("cannot keep the converted backbone: %s", error)


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "picture-features" / "backbones"
