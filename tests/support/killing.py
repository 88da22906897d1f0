"""Runs a program that dies by SIGKILL, with its JVM, at a chosen call to a folder of ours.

    python -m tests.support.killing WHEN METHOD PATTERN NTH PROGRAM [ARGUMENTS]

WHEN is before or after, METHOD a method of `Folder`, PATTERN a pattern of the names in it (as in `fnmatch`), NTH the
number of the matching call, from 1: `before create features/* 2 streaming replay --input ...`. It works alike on local
folders and on S3, because all that the project writes goes through these methods; a name is relative to its folder's
root. What Spark writes does not: with METHOD `watch`, PATTERN is a pattern of local paths (as in `glob`), and the
program dies as soon as one is there.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from streaming.storage.local_folder import LocalFolder
from streaming.storage.s3 import S3Folder

_LOOK_SECONDS = 0.0005  # a temporary file of Spark is there for little longer


def _die() -> None:
    os.killpg(0, signal.SIGKILL)


class _KillPoint:
    def __init__(self, when: str, pattern: str, nth: int) -> None:
        self._when = when
        self._pattern = pattern
        self._left = nth
        self._lock = threading.Lock()

    def wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def wrapped(folder: object, name: str, *arguments: object) -> Any:
            reached = fnmatch.fnmatch(name, self._pattern) and self._count()
            if reached and self._when == "before":
                _die()
            result = method(folder, name, *arguments)
            if reached:
                _die()
            return result

        return wrapped

    def _count(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left == 0


def _watch(pattern: str) -> None:
    while not glob.glob(pattern, include_hidden=True):
        time.sleep(_LOOK_SECONDS)
    _die()


def main(when: str, method: str, pattern: str, nth: str, program: str, *arguments: str) -> None:
    """Set the trap, then run the program."""
    assert when in ("before", "after")
    os.setsid()
    if method == "watch":
        threading.Thread(target=_watch, args=(pattern,), daemon=True).start()
    else:
        point = _KillPoint(when, pattern, int(nth))
        for kind in (LocalFolder, S3Folder):
            setattr(kind, method, point.wrap(getattr(kind, method)))
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
