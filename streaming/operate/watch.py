"""`status --watch`: the status of a stream again and again, until a signal ends it.

On a terminal each look takes the place of the one before. Elsewhere each is a line, for a log or a program.
A program reads a document in each line of stdout, and so is told of an outage on stderr.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

from conf.answers import write_out
from conf.errors import TransientError
from streaming.operate.status import Status

_PAUSE = 2.0
_SHARE = 0.2  # of the time: on S3, a look at a large table is a thousand requests
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_CLEAR = f"{_HOME}\x1b[2J"

_logger = logging.getLogger(__name__)


def watch(look: Callable[[], Status], *, as_json: bool) -> None:
    """Show the status every two seconds, or less often where it takes long, until SIGINT or another signal comes.

    A store that does not answer is told in a line, and asked again; with `as_json`, in a line of the log.

    Raises:
        SystemExit: the reader of stdout has seen enough.
        AppError: the output cannot be read, for another reason.
    """
    show = _in_place() if sys.stdout.isatty() and not as_json else _line
    try:
        while True:
            began = time.monotonic()
            try:
                status = look()
            except TransientError as error:
                if as_json:
                    _logger.warning("%s; asking again", error)
                else:
                    show(None, f"{error}; asking again")
            else:
                show(status, status.as_json() if as_json else _summary(status))
            time.sleep(max(_PAUSE, (time.monotonic() - began) / _SHARE))
    except KeyboardInterrupt:  # the way to end it
        return


def _line(_status: Status | None, text: str) -> None:
    write_out(f"{text}\n")


def _summary(status: Status) -> str:
    """The most important figures in one line."""
    behind = "unknown" if status.seconds_behind is None else f"{status.seconds_behind:.1f}s"
    outstanding = "unknown" if status.outstanding_pictures is None else f"{status.outstanding_pictures:,}"
    rate = "" if status.featurized_per_second is None else f", {status.featurized_per_second:,.1f}/s at work"
    return (
        f"{status.asked_at:%Y-%m-%d %H:%M:%S} UTC  {status.state}, {outstanding} outstanding, {behind} behind, "
        f"{status.features} in features, {status.quarantine} in quarantine{rate}"
    )


def _in_place() -> Callable[[Status | None, str], None]:
    """Shows the last status in full, with the time, or the error below it."""
    latest = ""
    write_out(_CLEAR)

    def show(status: Status | None, text: str) -> None:
        nonlocal latest
        if status:
            latest, text = status.as_text(), f"looked at {status.asked_at:%H:%M:%S} UTC"
        lines = [*latest.splitlines(), "", f"{text}; Ctrl-C ends this, and leaves the stream alone"]
        write_out(_HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines) + _CLEAR_BELOW)

    return show
