"""File names are UTF-8 in this project, whatever the locale says: a picture is its path, and its identity a hash of it.

Under another locale, such as the de_DE of cron, Python would decode the same name to other characters, so that the
picture had a second row, and `forget` missed the first.
"""

from __future__ import annotations

import os
import sys

from conf.errors import PlatformError

_MODE = "PYTHONUTF8"


def use_utf8() -> None:
    """Start this program again in Python's UTF-8 mode, with the same process id, if it decodes names otherwise.

    https://docs.python.org/3/library/os.html#utf8-mode

    Raises:
        PlatformError: Python was told not to.
    """
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        return
    if os.environ.get(_MODE) == "1":  # it has no effect, as -X utf8=0 was given
        raise PlatformError(f"Python decodes file names as {encoding}; leave out -X utf8=0, or set LC_ALL=C.UTF-8")
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _MODE: "1"})  # noqa: S606 # itself
