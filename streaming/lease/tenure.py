"""The tenure: the right to write to an output, from taking the lease to releasing it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Self

from streaming.lease.denylist import Denylist
from streaming.lease.handshake import Notice
from streaming.lease.holder import Looked
from streaming.lease.lease import Lease
from streaming.storage.folder import Folder

_DRAIN_SLICE_SECONDS = 0.2
_DRAIN_LOOK_SECONDS = 1.0  # on S3 each look for the mark is a paid request


class Tenure:
    """The right to write to an output; entering the context takes the lease, leaving it releases the lease.

    Code that writes for the holder is given the tenure, and writes inside of `writing()`.

    Attributes:
        output: as given.
        stop: set it to have the holder finish its micro-batch and end; a signal handler calls `drain` instead.

    Raises:
        LeaseHeldError: on entry, if another stream holds the lease.
    """

    def __init__(self, output: Folder, duration: timedelta) -> None:
        self.output = output
        self.stop = threading.Event()
        self._lease = Lease(output, duration)
        self._notice = Notice(output, self._lease)
        self._ends = ExitStack()
        self._drains = False
        self._next_look = 0.0

    def drain(self) -> None:
        """Ask the holder to stop, as `stop` does; a signal handler may call this, as it takes no lock."""
        self._drains = True

    def wait(self, seconds: float) -> bool:
        """Wait, unless the holder is asked to stop; returns whether it is."""
        give_up = time.monotonic() + seconds
        while not self._drains and not self.stop.is_set() and time.monotonic() < give_up:
            self.stop.wait(min(_DRAIN_SLICE_SECONDS, seconds))
        return self._drains or self.stop.is_set()

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            ends.enter_context(self._lease)
            ends.enter_context(self._notice)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.__exit__(*error)  # type: ignore[arg-type] # as Python passes them

    def check(self) -> None:
        """Make sure that the right to write was not lost; see `Lease.check` for what is raised."""
        self._lease.check()

    def confirm(self) -> None:
        """Make sure of it by a request to the store, after an announcement; see `Lease.confirm`."""
        self._lease.confirm()

    @contextmanager
    def writing(self) -> Iterator[Denylist]:
        """Check the lease and give the denylist, which does not grow inside the context.

        Files that are written there and filtered with this denylist therefore need no second check.

        Raises:
            LeaseLostError: another has taken the lease.
            TransientError, StorageError: it expired, and could not be renewed yet.
        """
        with self._notice.hold() as denylist:
            yield denylist

    def should_stop(self) -> bool:
        """Whether `stop` is set, or `streaming stop` asks for it, which is looked up once a second."""
        if not self._drains and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _DRAIN_LOOK_SECONDS
            if self._lease.drain_requested():
                self._drains = True
        if self._drains:
            self.stop.set()
        return self.stop.is_set()

    def note_look(self, looked: Looked) -> None:
        """Have the lease record a look for new pictures, for `status`."""
        self._lease.note_look(looked)
