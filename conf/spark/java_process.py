"""Starts the Java process of Spark, and ends it with this process, however that ends.

PySpark's own launch gives no handle on the process until it answers, which takes seconds, or minutes when packages are
fetched: a signal in between leaves Java behind, and the cause of its death is unknown. So this module starts
`spark-submit` as PySpark does, keeps the process, and tells PySpark where it listens.

A terminal's or a service manager's signal to all processes does not reach Java: its parent decides when it ends. It
ends when its stdin is closed; and on Linux the kernel ends it with its parent, whatever state it is in.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import logging
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from conf.errors import PlatformError
from conf.interrupts import before_unwinding, shielded

_LOOK_SECONDS = 0.02
_CONNECTION = "connection"
_HIDDEN = ".password"  # the end of such properties
_END_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1  # of Linux' prctl
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_TAIL_BYTES = 2**16
_LAST_WORDS = re.compile(
    rb"java\.lang\.OutOfMemoryError[^\n]*|# There is insufficient memory[^\n]*|# .*hs_err_pid\d+\.log"
)

_process: subprocess.Popen[bytes] | None = None  # there is one, as in PySpark
_logs: Mapping[Path, int] = {}  # and how long they were when it started


class Starting:
    """Java between its start and its first answer."""

    def __init__(self, process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
        self._process = process
        self._folder = folder

    def wait(self) -> dict[str, str]:
        """The environment variables by which PySpark finds it, once it listens.

        Raises:
            RuntimeError: Java ended before it listened.
        """
        connection = Path(self._folder.name, _CONNECTION)
        while not connection.exists():  # it appears whole
            if self._process.poll() is not None:
                raise RuntimeError(how_it_ended())
            time.sleep(_LOOK_SECONDS)
        data = connection.read_bytes()
        port, length = struct.unpack_from("!ii", data)
        return {"PYSPARK_GATEWAY_PORT": str(port), "PYSPARK_GATEWAY_SECRET": data[8 : 8 + length].decode()}

    def clean_up(self) -> None:
        """Delete the file by which they met, whether they did or not."""
        self._folder.cleanup()


def start(properties: Mapping[str, str], stderr: Path, log: Path) -> Starting:
    """Start Java, and do not wait for it: it takes a second, in which this process can import PySpark.

    Args:
        properties: of Spark.
        stderr: gets the output of Java and the Python workers on stdout and stderr.
        log: Spark's own log, where Java's last words may be, too.

    Raises:
        OSError: Java cannot be started.
    """
    global _process, _logs  # noqa: PLW0603 - see above
    _logs = {stderr: 0, log: log.stat().st_size if log.exists() else 0}
    # Everybody on this machine can read the arguments of a process; PySpark hands all properties on again.
    public = {key: value for key, value in properties.items() if not key.endswith(_HIDDEN)}
    conf = [word for key, value in public.items() for word in ("--conf", f"{key}={value}")]
    arguments = shlex.split(os.environ.get("PYSPARK_SUBMIT_ARGS", "pyspark-shell"))
    folder = tempfile.TemporaryDirectory()
    connection = os.path.join(folder.name, _CONNECTION)
    with stderr.open("wb") as output, shielded():  # or the handle on the process could be lost
        with suppress(OSError):  # a file system without locks
            fcntl.flock(
                output, fcntl.LOCK_SH | fcntl.LOCK_NB
            )  # Java inherits it: see conf.logs on files of idle streams
        _process = subprocess.Popen(
            [Path(os.environ.get("SPARK_HOME") or installed_spark(), "bin/spark-submit"), *conf, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, "SPARK_CONNECT_MODE": "0", "_PYSPARK_DRIVER_CONN_INFO_PATH": connection},
            process_group=0,
            preexec_fn=_bound_to_parent(),  # noqa: PLW1509 - as PySpark does; it calls the kernel and nothing else
        )
        before_unwinding(kill)
        atexit.register(end)
    return Starting(_process, folder)


def is_started() -> bool:
    """Whether `start` was called: there is one Java for all sessions of this process."""
    return _process is not None


def installed_spark() -> Path:
    """The folder of the Spark that PySpark brings, without importing that.

    Raises:
        PlatformError: PySpark is not installed.
    """
    found = find_spec("pyspark")
    if found is None or found.origin is None:
        raise PlatformError("PySpark is not installed; pip install picture-features brings it")
    return Path(found.origin).parent


def _bound_to_parent() -> Callable[[], None]:
    """The function that the new process calls before it becomes Java."""
    # The kernel binds it to the thread that starts it: any but the main thread may end before its process.
    bind = sys.platform == "linux" and threading.current_thread() is threading.main_thread()
    prctl = ctypes.CDLL(None, use_errno=True).prctl if bind else None
    parent = os.getpid()

    def prepare() -> None:
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)  # Java leaves alone what it finds ignored
        if prctl:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it has ended meanwhile
                os._exit(1)

    return prepare


def kill() -> None:
    """End Java, and the script that starts it, at once; a signal handler may call this."""
    if _process is not None and _process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(_process.pid, signal.SIGKILL)


def end(seconds: float = _END_SECONDS) -> None:
    """Let Java end orderly, which deletes its temporary files; kill it after `seconds`. For the end of this process."""
    if _process is None or _process.stdin is None:
        return
    logging.disable()  # py4j's thread that frees Java's objects may find Java gone, and would say so on stderr
    with suppress(OSError):
        _process.stdin.close()
    try:
        _process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill()


def how_it_ended(seconds: float = 0) -> str | None:
    """The cause of Java's end; None if it is alive after `seconds`, or was not started here."""
    if _process is None:
        return None
    try:
        code = _process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    said = "".join(f"; its log says: {words}" for words in _last_words())
    if code >= 0:
        return f"Java ended with exit code {code}{said}"
    by_kernel = ", as the kernel does when memory runs out" if -code == signal.SIGKILL and not said else ""
    return f"Java was ended by {signal.Signals(-code).name}{by_kernel}{said}"


def _last_words() -> Iterator[str]:
    """The messages of Java about its end, if it could write any."""
    for log, former in _logs.items():
        with suppress(OSError), log.open("rb") as file:
            size = log.stat().st_size
            file.seek(max(0 if size < former else former, size - _TAIL_BYTES))  # it is shorter once it was rolled over
            if found := [*_LAST_WORDS.finditer(file.read())]:
                yield found[-1][0].decode(errors="replace").strip("# ")
                return
