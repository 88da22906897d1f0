"""Tells monitors whether a stream is healthy, from the lease and the manifests that are not done.

A check takes a handful of requests on S3, whatever the size of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from conf.answers import Answer, Row
from conf.errors import UnhealthyError
from streaming.lease.holder import Holder, read_holder
from streaming.output.manifests import written_at
from streaming.output.tables import unfinished
from streaming.storage.folder import Folder

State = Literal["running", "stopped", "failed", "died", "expired", "none"]
"""Of a stream: stopped as asked, ended by an error, its process gone, its lease run out, or never begun."""


def read_state(output: Folder, now: datetime) -> tuple[State, Holder | None]:
    """The state of the stream on an output, and the present or last holder of the lease."""
    holder, _ = read_holder(output)
    return _state(holder, now), holder


def _state(holder: Holder | None, now: datetime) -> State:
    if holder is None:
        return "none"
    if holder.released:
        return "failed" if holder.failure else "stopped"
    if holder.is_dead():
        return "died"
    return "expired" if holder.is_gone(now) else "running"


def has_looked(holder: Holder, now: datetime) -> bool:
    """Whether a stream runs and looks for new pictures as planned, so that it has found all that there are."""
    looked = holder.looked
    if looked is None or holder.renewed_at is None or holder.is_gone(now):
        return False
    return looked.is_recent(holder.renewed_at)


@dataclass(frozen=True)
class Health(Answer):
    """A stream that is healthy, or was stopped as asked.

    Attributes:
        asked_at: when it was asked for, UTC.
        state: of the stream.
        holder: the present or last holder of the lease.
        looked_at: when it last looked for new pictures; None before the first time, and if it was stopped.
        seconds_behind: since the oldest picture that is not done was found; None if it was stopped.
    """

    asked_at: datetime
    state: State
    holder: str
    looked_at: datetime | None = None
    seconds_behind: float | None = None

    def rows(self) -> Iterator[Row]:
        """One line."""
        if self.state == "stopped":
            yield f"stopped as asked: {self.holder}"
        else:
            looked = f"last look {ago(self.asked_at, self.looked_at)}" if self.looked_at else "no look yet"
            yield f"healthy: {self.holder}, {looked}, {self.seconds_behind:.1f}s behind"


def check_health(output: Folder, now: datetime, longest: timedelta) -> Health:
    """Make sure that the stream on an output is healthy, or was stopped as asked.

    Args:
        output: of a stream that has begun.
        now: UTC.
        longest: the longest that a picture may wait after it was found, and a new stream before its first look.

    Raises:
        UnhealthyError: the stream is not healthy; the message names all problems.
    """
    state, holder = read_state(output, now)
    if holder is None:
        raise UnhealthyError(f"{output.root}: no stream runs")
    if state == "stopped":
        return Health(now, state, str(holder))
    waiting = unfinished(output)
    behind = now - written_at(waiting[0]) if waiting else timedelta(0)
    wrong = [_ended(state, holder, now) if state != "running" else _idle(holder, now, longest)]
    if behind > longest:
        wrong.append(f"pictures that were found {ago(now, written_at(waiting[0]))} are not done")
    if reasons := "; ".join(filter(None, wrong)):
        raise UnhealthyError(f"{output.root}: {reasons}")
    looked_at = holder.looked.at if holder.looked else None
    return Health(now, state, str(holder), looked_at, max(behind.total_seconds(), 0))


def _ended(state: State, holder: Holder, now: datetime) -> str:
    if state == "failed":
        return f"the stream failed: {holder.failure}"
    if state == "died":
        return f"the stream died: {holder}"
    return f"the stream died or cannot reach the output, its lease ran out {ago(now, holder.expires_at)}: {holder}"


def _idle(holder: Holder, now: datetime, longest: timedelta) -> str:
    """The problem with the looks of a stream that runs; empty if there is none, or the stream has just begun."""
    if holder.looked:
        return "" if has_looked(holder, now) else f"it last looked for pictures {ago(now, holder.looked.at)}"
    if now - holder.since <= longest:
        return ""
    return f"it has not looked for pictures since it started {ago(now, holder.since)}"


def ago(now: datetime, then: datetime) -> str:
    """The approximate time since `then`, like `11 min ago`."""
    seconds = max((now - then).total_seconds(), 0)
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
