"""Identifies this machine, and tells which of its processes have ended.

A machine here is a boot of a kernel together with the namespaces in which process numbers and start times are counted:
two containers, or two clones of one machine, may share a host name and have a process 1 each. Process numbers can be
compared only between processes of the same machine in this sense.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_STATE, _STARTED = 0, 19  # fields 3 and 22 of /proc/PID/stat, counted from what follows the command
_ENDED = ("Z", "X")  # killed, and not yet reaped: in a container without an init, perhaps never


def this_machine() -> str | None:
    """An identifier that the processes of this machine, and no others, share; None if it cannot be determined."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None  # /proc counts the processes of another namespace
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespaces = [os.readlink("/proc/self/ns/pid")]
    except OSError:
        return None
    with suppress(OSError):  # older kernels have no such namespace
        namespaces.append(os.readlink("/proc/self/ns/time"))
    return " ".join((boot, *namespaces))


def started(pid: int) -> str | None:
    """The start time of a process of this machine, which with its number identifies it; None if it is not known."""
    fields = _fields(pid)
    return fields[_STARTED] if fields else None


def _fields(pid: int) -> list[str] | None:
    """The fields of a process in /proc that follow its command; None if it has none there."""
    try:
        # Field 2, the command in parentheses, may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def has_ended(pid: int, since: str) -> bool:
    """Whether a process of this machine is known to have ended; a later one that has its number started later."""
    if fields := _fields(pid):
        return fields[_STARTED] != since or fields[_STATE] in _ENDED
    try:
        os.kill(pid, 0)  # /proc may hide the processes of other users
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
