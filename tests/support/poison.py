"""Pictures that harm the process which decodes them, as a defect in a codec would.

    PYTHONPATH=FOLDER:PROJECT, with FOLDER/sitecustomize.py: from tests.support import poison; poison.install()

makes every Python process obey the last word of a file that `poisoned` wrote. The production code knows nothing of it.
A file `children` in POISON_FOLDER gets a line for each picture that is decoded in an expendable process: its number.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from streaming.features import imaging

_MARK = b"#poison "
FOLDER = "POISON_FOLDER"


def poisoned(picture: Path, harm: str, folder: Path) -> Path:
    """A copy of a picture that decodes to the same pixels, where nothing obeys it."""
    copy = folder / picture.name
    copy.write_bytes(picture.read_bytes() + _MARK + harm.encode())
    return copy


def environment(folder: Path, project: Path) -> dict[str, str]:
    """What a process needs to obey."""
    (folder / "sitecustomize.py").write_text("from tests.support import poison; poison.install()\n")
    return {"PYTHONPATH": f"{folder}:{project}", FOLDER: str(folder)}


def install() -> None:
    """Put the harm before the decoder."""
    harmless = imaging.decode

    def decode(
        data: bytes,
        limits: imaging.Limits,
        side: int = imaging.DEFAULT_SIDE,
        out: NDArray[np.float32] | None = None,
    ) -> imaging.Picture:
        if "streaming.features.expendable" in sys.orig_argv:
            with (Path(os.environ[FOLDER]) / "children").open("ab") as file:
                file.write(b"%d\n" % os.getpid())
        _, mark, harm = data.rpartition(_MARK)
        if mark:
            _HARMS[harm.decode()]()
        return harmless(data, limits, side, out)

    imaging.decode = decode


def _read_nowhere() -> None:
    ctypes.string_at(0)


def _hang() -> None:
    ctypes.PyDLL(None).sleep(3600)  # a PyDLL keeps the GIL, so that no thread of Python could end it


def _fill_memory() -> None:
    """Take all that there is, until the kernel's out-of-memory killer comes."""
    _ = bytearray(4 * 2**30)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_executor() -> None:
    """The JVM above the daemon above this worker, like a node that is lost."""
    executor = psutil.Process(os.getppid()).parent()
    assert executor is not None
    executor.kill()
    signal.pause()


def _lack_memory_for_a_thread() -> None:
    os._exit(127)  # as glibc does


def _only(times: int, harm: Callable[[], None]) -> Callable[[], None]:
    def sometimes() -> None:
        for place in range(times):
            with suppress(FileExistsError):
                (Path(os.environ[FOLDER]) / f"{harm.__name__}-{times}-{place}").touch(exist_ok=False)
                harm()
                return

    return sometimes


_HARMS: dict[str, Callable[[], None]] = {
    "segfault": _read_nowhere,
    "hang": _hang,
    "memory": _fill_memory,
    "memory of a thread": _lack_memory_for_a_thread,
    "die twice": _only(2, _die),
    "die once": _only(1, _die),
    "kill executor once": _only(1, _kill_executor),
}
