"""Stops the stream that writes to an output, and waits until it has."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from conf.answers import Answer, Row, command
from conf.aws.connection import S3Connection
from conf.settings import Settings
from streaming.lease.drain import request_drain, wait_until_gone
from streaming.output.format_number import check_format
from streaming.output.places import check_begun
from streaming.storage.locations import open_folder

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stopped(Answer):
    """The end of a stream.

    Attributes:
        output: canonical path.
        holder: the stream; None if none ran.
        ended: whether it has ended; if not, its lease ran out, and it stops should it come back.
    """

    output: str
    holder: str | None
    ended: bool

    def rows(self) -> Iterator[Row]:
        """One line."""
        if self.holder is None:
            yield f"no stream runs on {self.output}"
        elif self.ended:
            yield f"stopped: {self.holder}"
        else:
            lost = "died, or cannot reach the output: its lease ran out; if it comes back, it stops"
            yield f"{self.holder} {lost}"

    def next_step(self) -> str:
        """To see what it has left."""
        return command("streaming", "status", "--output", self.output)


def stop(settings: Settings) -> Stopped:
    """Ask the stream to finish its micro-batch, and wait for its end.

    Raises:
        OutputError: no stream has begun on the output, or it is of a later format.
    """
    output = open_folder(settings.output or "", S3Connection.of(settings.s3))
    check_format(output)
    holder = request_drain(output)
    if holder is None:
        check_begun(output)  # not before: a stream takes the lease first, and then begins its log
        return Stopped(output.root, None, ended=True)
    _logger.info("asked %s to finish its micro-batch and stop", holder)
    return Stopped(output.root, str(holder), wait_until_gone(output, holder))
