"""Logging: short lines for a person on a terminal, JSON lines for a machine, and every detail in a file.

Structured values travel as `logger.info("...", extra={"data": {...}})`: a JSON line shows them as fields, a person
reads the message alone.

Each verb has a log file for each output, so that streams do not write, or rotate, each other's. A file that was not
written for a long time is deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import logging.handlers
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

from conf.errors import SettingsError
from conf.settings import LogSettings

_logger = logging.getLogger(__name__)

_NAME = "picture-features"
_FILE_BYTES = 10 * 1024**2
_FILES_KEPT = 3
_FORGOTTEN_SECONDS = 90 * 86400.0
_OURS = re.compile(r"(streaming|batch_fit|emr|spark)-[\w.-]*-[0-9a-f]{8}\.log(\.\d)?")
"""The log files of outputs: those of the programs, and Spark's, as `log_name` names them."""


@dataclass(frozen=True)
class Log:
    """The destinations of a program's log.

    Attributes:
        file: the log file with all details.
        as_text: whether stderr gets lines for people.
    """

    file: Path
    as_text: bool


def is_text(log_format: str) -> bool:
    """Whether stderr gets lines for people, by `log.format`."""
    return log_format == "text" or (log_format == "auto" and sys.stderr.isatty())


def write_last(
    message: str,
    data: Mapping[str, object],
    log: Log | None,
    *,
    as_json: bool,
    unexpected: BaseException | None = None,
) -> None:
    """Write the line that ends a program.

    Args:
        message: without "error: ", which stands before it for people.
        data: more fields for machines.
        log: None if logging was not set up yet.
        as_json: decides about stderr in that case.
        unexpected: a failure whose traceback machines get as well: the log file may end with the container.
    """
    logger, extra = logging.getLogger(__name__), {"last": True, "data": data}
    if log is not None:
        logger.error(message, exc_info=unexpected, extra=extra)
        return
    record = logger.makeRecord(logger.name, logging.ERROR, "", 0, message, (), None, extra=extra)
    formatter = _JsonFormatter() if as_json else _TextFormatter()
    sys.stderr.write(f"{formatter.format(record)}\n")


class _TextFormatter(logging.Formatter):
    """Time, level if it is not info, message; never a traceback. The line that ends a program stands alone."""

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, "last", False):
            return f"error: {record.getMessage()}"
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"{time} {level}{record.getMessage()}"


class _JsonFormatter(logging.Formatter):
    """One object per line: time (UTC), level, logger, message, process, output, the fields of `extra={"data": ...}`."""

    def __init__(self, output: str | None = None) -> None:
        super().__init__()
        self._place = {} if output is None else {"output": output}

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": os.getpid(),
            **self._place,
            **getattr(record, "data", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_folder(settings: LogSettings) -> Path:
    """The folder of the log files, created if necessary.

    Raises:
        SettingsError: it cannot be created.
    """
    state = os.environ.get("XDG_STATE_HOME")
    if settings.folder is None and not state:
        return _made_at_home() or _made_in_tmp()
    folder = settings.folder or Path(state or "") / _NAME
    try:
        with suppress(RuntimeError):  # nobody of this name has a home: then ~ is part of the name, as for a shell
            folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_make(folder, error) from error
    return folder


def _made_at_home() -> Path | None:
    """The usual folder; None if the user has no home, as often in a container, or may not write there."""
    try:
        folder = Path.home() / ".local" / "state" / _NAME
        folder.mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError):
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _made_in_tmp() -> Path:
    """A folder of this user alone.

    Raises:
        SettingsError: it cannot be created, or belongs to another user.
    """
    folder = Path(tempfile.gettempdir(), f"{_NAME}-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise _cannot_make(folder, error) from error
    if owner != os.getuid():
        raise SettingsError(f"log.folder: {folder} belongs to somebody else; name another folder")
    return folder


def _cannot_make(folder: Path, error: OSError) -> SettingsError:
    return SettingsError(f"log.folder: cannot make {folder}: {error.strerror}; name another folder")


def log_name(program: str, output: str | None) -> str:
    """The name of a program's log files for an output, without suffix; different for each output."""
    if output is None:
        return program
    last = re.sub(r"[^\w.-]+", "_", output.rstrip("/").rpartition("/")[2])[:40]
    return f"{program}-{last}-{hashlib.sha256(output.encode()).hexdigest()[:8]}"


class _SharedFile(logging.handlers.RotatingFileHandler):
    """A rotating file that is locked while it is being written, so that other programs do not delete it.

    A file that cannot be written, on a full disk, is told once, and the program goes on without it.
    """

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - of logging
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True  # before the line about it, which comes here again
            _logger.warning("the log file %s cannot be written: %s", self.baseFilename, error.strerror)

    def close(self) -> None:
        with suppress(OSError):  # for lines that it still holds there is no room; the answer of the verb stands
            super().close()

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        with suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return stream


def _remove_forgotten(folder: Path) -> None:
    """Delete the log files of outputs that were not written for a long time."""
    for file in folder.iterdir():
        if _OURS.fullmatch(file.name):
            with suppress(OSError), file.open("rb") as stream:
                if time.time() - os.fstat(stream.fileno()).st_mtime > _FORGOTTEN_SECONDS:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an idle stream keeps its file
                    file.unlink()


@contextmanager
def logging_to(settings: LogSettings, program: str, output: str | None = None) -> Iterator[Log]:
    """Send the log to stderr and, with all details, to a rotating file of the program and of its canonical output.

    Raises:
        SettingsError: the file cannot be written.
    """
    folder = log_folder(settings)
    file = folder / f"{log_name(program, output)}.log"
    try:
        _remove_forgotten(folder)
        to_file: logging.Handler = _SharedFile(file, maxBytes=_FILE_BYTES, backupCount=_FILES_KEPT, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"log.folder: cannot write {file}: {error.strerror}; name another folder") from error
    to_file.setFormatter(_JsonFormatter(output))
    to_file.setLevel(logging.DEBUG)

    as_text = is_text(settings.format)
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(_TextFormatter() if as_text else _JsonFormatter(output))
    least = logging.getLevelNamesMapping()[settings.level.upper()]
    # Not by its level: where a bar is shown, tqdm's handler takes its place, with its filters and without its level.
    to_stderr.addFilter(lambda record: record.levelno >= least)

    root = logging.getLogger()
    former = root.handlers[:], root.level
    root.handlers[:] = [to_file, to_stderr]  # what becomes of the former is told before the line that ends a program
    root.setLevel(logging.INFO)
    for ours in ("conf", "streaming", "batch_fit"):
        logging.getLogger(ours).setLevel(logging.DEBUG)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # its callers report the failures
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it reports where it found each credential
    logging.captureWarnings(capture=True)
    if file.parent.name == f"{_NAME}-{os.getuid()}" and settings.folder is None:
        _logger.warning("there is no home to write log files to: they are in %s; log.folder names another", file.parent)
    try:
        yield Log(file, as_text)
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = former[0]
        root.setLevel(former[1])
        to_file.close()
