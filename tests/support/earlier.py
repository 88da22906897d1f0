"""What an earlier release left on a disk: tests/system/data/README.md says what it is and how it was made."""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.streams import PROJECT, Place

_ARCHIVE = PROJECT / "tests/system/data/earlier.tar.xz"
_ROOT = Path("/tmp/picture-features-earlier")  # the records in it hold this path


@contextmanager
def unpacked() -> Iterator[Place]:
    """Where it was made, while no other tests on this machine have it there; removed in the end."""
    if _ROOT.resolve() != _ROOT:
        pytest.skip(f"this test needs the path {_ROOT}, and {_ROOT.parent} is a link here")
    lock = os.open(_ROOT.parent, os.O_RDONLY)  # ends with this process, whatever becomes of it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(_ROOT, ignore_errors=True)
        _unpack()
        yield Place(_ROOT)
    finally:
        shutil.rmtree(_ROOT, ignore_errors=True)
        os.close(lock)


def _unpack() -> None:
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(_ROOT, filter="data")
        for member in archive:  # tarfile rounds times, by which an export knows the files of a day
            if member.isfile() and (exact := member.pax_headers.get("mtime")):
                time = int(Decimal(exact) * 10**9)
                os.utime(_ROOT / member.name, ns=(time, time))
