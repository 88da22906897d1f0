"""One writer to an output: the lease, and the mark that asks its holder to stop.

It owns OUTPUT/_lease and OUTPUT/_drain; it must not know what the holder does. The lease keeps two streams from working
side by side; that nothing is lost or repeated where it fails is the sink's doing.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from conf.errors import (
    AlreadyExistsError,
    ConflictError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    StorageError,
    TransientError,
)
from streaming.attempts import Attempt, this_attempt
from streaming.features.stored import Folder

LEASE = "_lease"
DRAIN = "_drain"
_LOOK_SECONDS = 0.2

_logger = logging.getLogger(__name__)


class Holder(BaseModel):
    """Who holds the lease, as OUTPUT/_lease has it.

    Attributes:
        id: of this tenure, new for each start.
        host, pid, process_started: the process; together they tell a live one from a later one of the same number.
        since, expires_at: UTC.
        released: whether it was given back.
        attempt: of YARN, where it runs there.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    host: str
    pid: int
    process_started: str
    since: datetime
    expires_at: datetime
    released: bool = False
    attempt: Attempt | None = None

    def is_gone(self, now: datetime) -> bool:
        """Whether another may take over: given back, expired, or a dead process of this machine."""
        if self.released or now >= self.expires_at:
            return True
        return self.host == socket.gethostname() and _process_started(self.pid) != self.process_started

    def is_succeeded_by(self, other: Holder, now: datetime) -> bool:
        """Whether another may take over at once: this one is gone, or YARN gave it up and began the next attempt.

        A former attempt that still lives, behind a broken network, is in the place of one whose lease ran out.
        """
        return self.is_gone(now) or (other.attempt is not None and other.attempt.follows(self.attempt))

    def __str__(self) -> str:
        attempt = f"{self.attempt}, " if self.attempt else ""
        return f"process {self.pid} on {self.host} ({attempt}since {self.since:%Y-%m-%d %H:%M:%S} UTC)"


def _process_started(pid: int) -> str | None:
    """What sets a process apart from a later one of the same number; None if there is no such process."""
    try:
        # Field 22, start time since boot. Field 2, the command in parentheses, may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown" if not Path("/proc/self").exists() else None


def read_holder(output: Folder) -> tuple[Holder | None, str | None]:
    """What the lease says, and its tag; None if nobody ever held it."""
    try:
        data, tag = output.read_tagged(LEASE)
    except NotFoundError:
        return None, None
    try:
        return Holder.model_validate_json(data), tag
    except ValidationError as error:
        raise StorageError(f"{output.path(LEASE)} cannot be read; delete it if no stream is running") from error


class Lease:
    """The right to write to an output, held while the context is entered and renewed by a thread of its own.

    Raises:
        LeaseHeldError: on entry, if another stream holds it.
    """

    def __init__(self, output: Folder, duration: timedelta) -> None:
        self._output = output
        self._duration = duration
        now = datetime.now(UTC)
        self._holder = Holder(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=_process_started(os.getpid()) or "unknown",
            since=now,
            expires_at=now + duration,
            attempt=this_attempt(),
        )
        self._tag = ""
        self._leave = threading.Event()
        self._lost: str | None = None
        self._unanswered = False
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)

    @property
    def holder(self) -> Holder:
        """Ourselves, as the lease says."""
        return self._holder

    def __enter__(self) -> Self:
        present, tag = read_holder(self._output)
        if present and not present.is_succeeded_by(self._holder, datetime.now(UTC)):
            raise LeaseHeldError(
                f"{self._output.root}: another stream writes to this output: {present}; stop it with "
                f"python -m streaming stop --output {self._output.root}, or choose another output"
            )
        try:
            self._write(self._holder, tag)
        except (AlreadyExistsError, ConflictError):
            raise LeaseHeldError(f"{self._output.root}: another stream has just taken this output") from None
        self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave.set()
        self._renewer.join()
        if self._lost is None:
            with suppress(StorageError):  # it expires by itself
                self._output.delete(DRAIN)  # before a successor can be asked to stop
                self._write(self._holder.model_copy(update={"released": True}), self._tag)

    def check(self) -> None:
        """Make sure that the lease is still ours.

        Raises:
            LeaseLostError: it ran out, or was taken by another.
            TransientError: it ran out because the store does not answer; it may be ours again.
        """
        if self._lost is None and datetime.now(UTC) >= self._holder.expires_at:
            if self._unanswered:
                raise TransientError(f"{self._output.root}: the lease ran out while the store does not answer")
            self._lost = "it ran out before it could be renewed"
        if self._lost is not None:
            raise LeaseLostError(f"{self._output.root}: lost the right to write here: {self._lost}; start again")

    def drain_requested(self) -> bool:
        """Whether `request_drain` asked this holder to stop."""
        try:
            return self._output.read(DRAIN).decode() == self._holder.id
        except StorageError:
            return False

    def _renew(self) -> None:
        while not self._leave.wait(self._duration.total_seconds() / 3):
            try:
                self._extend()
            except ConflictError:
                self._lost = "another stream took it"
                return
            except StorageError as error:
                _logger.warning("cannot renew the lease, trying again: %s", error)

    def _extend(self) -> None:
        extended = self._holder.model_copy(update={"expires_at": datetime.now(UTC) + self._duration})
        if self._unanswered:  # nobody knows whether that request failed
            present, tag = read_holder(self._output)
            if present is None or tag is None or present.id != self._holder.id:
                raise ConflictError(f"{self._output.path(LEASE)}: another stream took it")
            self._tag = tag
        self._unanswered = True
        try:
            self._write(extended, self._tag)
        except TransientError:
            raise
        except StorageError:
            self._unanswered = False
            raise
        self._unanswered = False

    def _write(self, holder: Holder, tag: str | None) -> None:
        """Make it durable, and only then our own belief: until then another may take over by what stands there."""
        data = holder.model_dump_json(indent=2).encode()
        create, replace = self._output.create, self._output.replace
        self._tag = create(LEASE, data) if tag is None else replace(LEASE, data, tag)
        self._holder = holder


def wait_until_gone(output: Folder, holder: Holder) -> None:
    """Return when a holder has given the lease back, or lost it."""
    while True:
        present, _ = read_holder(output)
        if present is None or present.id != holder.id or present.is_gone(datetime.now(UTC)):
            return
        time.sleep(_LOOK_SECONDS)


def request_drain(output: Folder) -> Holder | None:
    """Ask the holder of the lease to finish its micro-batch and stop; None if nobody holds it."""
    holder, _ = read_holder(output)
    if holder is None or holder.is_gone(datetime.now(UTC)):
        return None
    output.delete(DRAIN)  # one that an earlier holder left
    with suppress(AlreadyExistsError):  # another request, at the same moment
        output.create(DRAIN, holder.id.encode())
    return holder
