"""Logging: short lines for a person on a terminal, JSON lines for a machine, and every detail in a file.

It owns formats and destinations; it must not know what is logged. Structured values travel as
`logger.info("...", extra={"data": {...}})`: a JSON line shows them as fields, a person reads the message alone.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from conf.errors import SettingsError
from conf.settings import LogSettings

_FILE_BYTES = 10 * 1024**2
_FILES_KEPT = 3


class _TextFormatter(logging.Formatter):
    """Time, level if it is not info, message; never a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"{time} {level}{record.getMessage()}"


class _JsonFormatter(logging.Formatter):
    """One object per line: time (UTC), level, logger, message, and the fields of `extra={"data": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "data", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_folder(settings: LogSettings) -> Path:
    """The folder of the log files, created if need be.

    Raises:
        SettingsError: if it cannot be created.
    """
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = settings.folder or state / "picture-features"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"log.folder: cannot make {folder}: {error.strerror}; name another folder") from error
    return folder


@contextmanager
def logging_to(settings: LogSettings, program: str) -> Iterator[Path]:
    """Send the log to stderr and, with all details, to a rotating file, whose path the context gives.

    Raises:
        SettingsError: if the file cannot be written.
    """
    file = log_folder(settings) / f"{program}.log"
    try:
        to_file: logging.Handler = logging.handlers.RotatingFileHandler(
            file, maxBytes=_FILE_BYTES, backupCount=_FILES_KEPT, encoding="utf-8"
        )
    except OSError as error:
        raise SettingsError(f"log.folder: cannot write {file}: {error.strerror}; name another folder") from error
    to_file.setFormatter(_JsonFormatter())
    to_file.setLevel(logging.DEBUG)

    to_stderr = logging.StreamHandler()
    as_text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    to_stderr.setFormatter(_TextFormatter() if as_text else _JsonFormatter())
    to_stderr.setLevel(settings.level.upper())

    root = logging.getLogger()
    former = root.handlers[:], root.level
    root.handlers[:] = [to_stderr, to_file]
    root.setLevel(logging.INFO)
    for ours in ("conf", "streaming", "batch_fit"):
        logging.getLogger(ours).setLevel(logging.DEBUG)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # what fails behind it is reported by whoever called it
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it reports where it found each credential
    logging.captureWarnings(capture=True)
    try:
        yield file
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = former[0]
        root.setLevel(former[1])
        to_file.close()
