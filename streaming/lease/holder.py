"""The record of the lease, OUTPUT/_lease: who writes to an output, or did so last, and how that ended."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from conf.errors import ConflictError, StorageError
from streaming.lease.machine import has_ended, this_machine
from streaming.lease.yarn import Attempt
from streaming.storage.documents import read_document
from streaming.storage.folder import Folder

LEASE = "_lease"
LONGEST_FAILURE = 300
"""The characters that are kept of an error."""

_LOOKS_MISSED = 3
_GRACE = timedelta(minutes=1)  # a look may take a while, and the next renewal of the lease publishes it


class Looked(BaseModel):
    """The holder's last look for new pictures.

    Attributes:
        at: when it ended, UTC.
        period: seconds from one look to the next; None if there is no next one.
        unsettled: new pictures that it left for a later look, because they may still be being written.
    """

    model_config = ConfigDict(frozen=True)

    at: datetime
    period: float | None
    unsettled: int

    def is_recent(self, now: datetime) -> bool:
        """Whether less than three periods and a minute have passed since, in which there was no other look."""
        return self.period is None or now - self.at <= _LOOKS_MISSED * timedelta(seconds=self.period) + _GRACE


class Holder(BaseModel):
    """The holder of the lease, as OUTPUT/_lease describes it.

    Attributes:
        id: of this tenure, new for each start.
        host: the machine's name, for people only: two machines may share one.
        machine: see `machine.this_machine`; None in a lease of an earlier version.
        pid, process_started: the process; together they tell a live one from a later one of the same number.
        since, renewed_at, expires_at: UTC.
        released: whether it was given back.
        failure: the error that ended the tenure.
        attempt: the attempt of YARN, if the process runs there.
        looked: its last look for new pictures before `renewed_at`.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    host: str
    machine: str | None = None
    pid: int
    process_started: str
    since: datetime
    renewed_at: datetime | None = None
    expires_at: datetime
    released: bool = False
    failure: str | None = None
    attempt: Attempt | None = None
    looked: Looked | None = None

    @property
    def longest_silence(self) -> timedelta:
        """The time after which a live holder would have changed the record."""
        return self.expires_at - (self.renewed_at or self.since)

    def is_dead(self) -> bool:
        """Whether its process is known to have ended. Only processes of the same machine can tell."""
        return self.machine is not None and self.machine == this_machine() and has_ended(self.pid, self.process_started)

    def is_gone(self, now: datetime) -> bool:
        """Whether another may take over: the lease was released, has expired, or its process of this machine died."""
        return self.released or now >= self.expires_at or self.is_dead()

    def is_succeeded_by(self, other: Holder, now: datetime) -> bool:
        """Whether `other` may take over at once: this holder is gone, or is a former attempt that YARN gave up.

        A former attempt that still runs behind a broken network is treated as a holder whose lease expired.
        """
        return self.is_gone(now) or (other.attempt is not None and other.attempt.follows(self.attempt))

    def __str__(self) -> str:
        attempt = f"{self.attempt}, " if self.attempt else ""
        return f"process {self.pid} on {self.host} ({attempt}since {self.since:%Y-%m-%d %H:%M:%S} UTC)"


def read_holder(output: Folder) -> tuple[Holder | None, str | None]:
    """The holder that the lease names, and the lease's tag; None if nobody ever held it.

    Raises:
        StorageError: the lease is damaged, or the store refused.
    """
    where = output.path(LEASE)
    return read_document(
        output, LEASE, Holder, lambda _: StorageError(f"{where} cannot be read; delete it if no stream is running")
    )


def erase_failure(output: Folder, is_forgotten: Callable[[str], bool]) -> None:
    """Take the error out of the record of a holder that has ended, if it begins with the path of a forgotten picture.

    Raises:
        StorageError: the lease is damaged, or the store refused.
    """
    holder, tag = read_holder(output)
    if holder is None or tag is None or not (failure := holder.failure):
        return
    begins = (failure[: found.start()] for found in re.finditer(": ", failure))
    if len(failure) >= LONGEST_FAILURE or any(map(is_forgotten, begins)):  # a long path may be cut off
        without = holder.model_copy(update={"failure": "it told of a picture that was forgotten"})
        with suppress(ConflictError):  # another has taken the lease
            output.replace(LEASE, without.model_dump_json(indent=2).encode(), tag)
