"""The lease, OUTPUT/_lease, which lets one process at a time write to an output.

The lease keeps two streams from working side by side; where it fails, the conditional writes of `output.decision` still
keep pictures from being lost or repeated. Invariants: a holder believes that it has the lease only as long as the
record in the store keeps others from taking it, and gives the lease up for good only when another has taken it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from conf.answers import command
from conf.errors import (
    AlreadyExistsError,
    AppError,
    ConflictError,
    LeaseHeldError,
    LeaseLostError,
    StorageError,
    TransientError,
)
from conf.interrupts import shielded
from streaming.lease.holder import LEASE, LONGEST_FAILURE, Holder, Looked, read_holder
from streaming.lease.machine import started, this_machine
from streaming.lease.yarn import this_attempt
from streaming.storage.documents import create_or_replace
from streaming.storage.folder import Folder

DRAIN = "_drain"
_RELEASE_ATTEMPTS = 3
_LOOK_SECONDS = 0.5
_LONGEST_WAIT = timedelta(minutes=1)

_over: set[str] = set()  # tenures of this process that ended, or never began, although the store may not know of it

_logger = logging.getLogger(__name__)


class Lease:
    """The right to write to an output, held while the context is entered and renewed by a thread of its own.

    A renewal begins after a third of the duration, counted from the start of the previous request, and is given up
    after half of it, so that there is time for a second one. An expired lease is renewed, too, if nobody has taken it.

    Raises:
        LeaseHeldError: on entry, if another stream holds it.
    """

    def __init__(self, output: Folder, duration: timedelta) -> None:
        self._output = output
        self._duration = duration
        self._renewals = output.with_timeout(duration.total_seconds() / 2)
        now = datetime.now(UTC)
        self._holder = Holder(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=this_machine(),
            pid=os.getpid(),
            process_started=started(os.getpid()) or "unknown",
            since=now,
            expires_at=now,
            attempt=this_attempt(),
        )
        self._written = time.monotonic()
        self._tag = ""
        self._outwaited: Holder | None = None
        self._looked: Looked | None = None
        self._wake = threading.Event()
        self._leaving = False
        self._lost: str | None = None
        self._failure: Exception | None = None
        self._failed: str | None = None
        self._renewer = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def holder(self) -> Holder:
        """This process, as last written to the lease."""
        return self._holder

    def __enter__(self) -> Self:
        self._outwait()
        try:
            with shielded():
                self._take()
        except KeyboardInterrupt:  # delayed by `shielded` until the lease was taken or refused
            if self._renewer.ident is not None:
                self.__exit__(None, None, None)
            raise
        return self

    def _outwait(self) -> None:
        """Wait for a holder of another machine, which may be gone: a live one renews its lease, a dead one's runs out.

        This machine may have been started again, perhaps with a clock that is not set yet, or be the container that
        replaces the holder's. A lease that runs out later than in a minute is not waited for.
        """
        first, _ = read_holder(self._output)
        if first is None or self._may_follow(first) or first.machine == this_machine():
            return
        wait = min(first.expires_at - datetime.now(UTC), first.longest_silence)
        if wait > _LONGEST_WAIT:
            return
        _logger.info("waiting until the lease of %s is renewed, or runs out", first)
        give_up = time.monotonic() + wait.total_seconds()
        while not self._may_follow(first):
            time.sleep(_LOOK_SECONDS)
            holder, _ = read_holder(self._output)
            if holder != first:
                return
            if time.monotonic() >= give_up:
                self._outwaited = first

    def _may_follow(self, present: Holder) -> bool:
        if present.id in _over or present == self._outwaited:
            return True
        return present.is_succeeded_by(self._holder, datetime.now(UTC))

    def _take(self) -> None:
        present, tag = read_holder(self._output)
        if not (present is None or self._may_follow(present)):
            raise LeaseHeldError(
                f"{self._output.root}: another stream writes to this output: {present}; stop it with "
                f"{command('streaming', 'stop', '--output', self._output.root)}, or choose another output"
            )
        try:
            self._write(self._output, tag)
        except (AlreadyExistsError, ConflictError):
            raise LeaseHeldError(f"{self._output.root}: another stream has just taken this output") from None
        except BaseException:  # the record may have been written all the same, and this program may try again
            _over.add(self._holder.id)
            raise
        self._renewer.start()

    @shielded()
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leaving = True
        self._wake.set()
        self._renewer.join()
        _over.add(self._holder.id)
        if self._lost is None:
            # A signal that comes before there is work to finish arrives as KeyboardInterrupt: it is not a failure.
            failed = None if error is None or isinstance(error, KeyboardInterrupt) else _words(error)
            self._release(failed or self._failed)
            self._lost = "it was given back"

    def check(self) -> None:
        """Make sure that this process still holds the lease.

        Raises:
            LeaseLostError: another has taken it.
            TransientError: it expired before it could be renewed; a later renewal may succeed.
            StorageError: it expired, and its renewal fails permanently.
        """
        if self._lost is not None:
            raise self._lost_error()
        # Two clocks: the monotonic one stands still while the machine sleeps, the other may be set.
        age = time.monotonic() - self._written
        if datetime.now(UTC) < self._holder.expires_at and age < self._duration.total_seconds():
            return
        if isinstance(self._failure, StorageError) and not isinstance(self._failure, TransientError):
            raise StorageError(f"the lease ran out: {self._failure}") from self._failure
        raise TransientError(f"{self._output.root}: the lease ran out before the store confirmed its renewal")

    def confirm(self) -> None:
        """As `check`, but the store is asked: clocks may differ, and YARN's next attempt waits for none.

        Whatever this process wrote before the call is found by whoever takes the lease after it.

        Raises:
            LeaseLostError: another has taken it.
            StorageError: it expired, or the store does not answer.
        """
        self.check()
        try:
            self.renew()
        except ConflictError as error:
            self._lost = str(error)
            raise self._lost_error() from None

    def _lost_error(self) -> LeaseLostError:
        return LeaseLostError(f"{self._output.root}: lost the right to write here: {self._lost}; start again")

    def note_look(self, looked: Looked) -> None:
        """Record a look for new pictures; the next renewal publishes it, and the first look is published at once."""
        is_first, self._looked = self._looked is None, looked
        if is_first:
            self._wake.set()

    def note_failure(self, failure: str) -> None:
        """Record, when the lease is given back, that the tenure ended by this failure."""
        self._failed = failure[:LONGEST_FAILURE]

    def drain_requested(self) -> bool:
        """Whether `request_drain` asked this holder to stop."""
        try:
            return self._renewals.read(DRAIN).decode() == self._holder.id
        except StorageError:
            return False

    def renew(self) -> None:
        """Extend the lease, also an expired one, unless another has taken it.

        Raises:
            ConflictError: another has taken it, or its file was deleted; the message says which.
            StorageError: the store refused, or does not answer.
        """
        self._replace()

    def _keep(self) -> None:
        third, pause = self._duration.total_seconds() / 3, 0.0
        while True:
            self._wake.wait(max(pause, self._written + third - time.monotonic()))
            self._wake.clear()
            if self._leaving:
                return
            try:
                self.renew()
            except ConflictError as error:
                self._lost = str(error)
                return
            except Exception as error:  # any other error does not mean that another has taken the lease
                if self._failure is None:
                    _logger.warning("cannot renew the lease, trying again until it succeeds: %s", error)
                _logger.debug("cannot renew the lease", exc_info=error)
                self._failure, pause = error, third / 3
            else:
                if self._failure is not None:
                    _logger.info("the lease is renewed again")
                self._failure, pause = None, 0.0

    def _release(self, failure: str | None) -> None:
        for _ in range(_RELEASE_ATTEMPTS):  # if all fail, the lease expires
            try:
                self._replace(released=True, failure=failure)
            except TransientError:
                continue
            except StorageError:
                pass
            return

    def _replace(self, **changes: Any) -> None:
        """Overwrite our own record, which an earlier request may have changed although its answer was lost."""
        while True:
            try:
                return self._write(self._renewals, self._tag, **changes)
            except ConflictError:
                present, tag = read_holder(self._renewals)
                if present is None or tag is None:
                    raise ConflictError(f"{LEASE} was deleted") from None
                if present.id != self._holder.id:
                    raise ConflictError(f"{present} took it") from None
                self._tag = tag

    def _write(self, output: Folder, tag: str | None, **changes: Any) -> None:
        """Write the record, then adopt it: until it is durable, another may take over by the record in the store.

        The new duration counts from before the request, however long the request takes.
        """
        written, now = time.monotonic(), datetime.now(UTC)
        stamps = {"renewed_at": now, "expires_at": now + self._duration, "looked": self._looked}
        holder = self._holder.model_copy(update=stamps | changes)
        data = holder.model_dump_json(indent=2).encode()
        self._tag = create_or_replace(output, LEASE, data, tag)
        self._holder, self._written = holder, written


def _words(error: BaseException) -> str:
    """An error in one line."""
    kind = () if isinstance(error, AppError) else (type(error).__name__,)
    return ": ".join((*kind, *str(error).strip().splitlines()[:1]))[:LONGEST_FAILURE]
