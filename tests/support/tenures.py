"""The right to write: without a lease, which a test takes away as it likes, or with that of another machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from conf.errors import LeaseLostError
from streaming.discovery.by_listing import ListingDiscoverer
from streaming.lease.denylist import NOTHING, Denylist
from streaming.lease.holder import LEASE, Holder
from streaming.lease.tenure import Tenure
from streaming.output.inbox import Inbox
from streaming.output.known import KnownPictures
from streaming.output.manifest_log import ManifestLog
from streaming.output.places import Input
from streaming.storage.folder import Folder


class LoseableLease:
    """A lease that another takes when `lost` is set; its `check` is that of a `LooseTenure`."""

    def __init__(self) -> None:
        self.lost = False

    def check(self) -> None:
        if self.lost:
            raise LeaseLostError("another stream took it")


class LooseTenure(Tenure):
    """Calls `check` before each write, and forbids what `denylist` holds."""

    def __init__(self, output: Folder, check: Callable[[], None] = lambda: None, denylist: Denylist = NOTHING) -> None:
        self.output = output
        self.stop = threading.Event()
        self._drains = False
        self._check = check
        self._denylist = denylist

    def check(self) -> None:
        self._check()

    def confirm(self) -> None:
        self._check()

    @contextmanager
    def writing(self) -> Iterator[Denylist]:
        self._check()
        yield self._denylist


def new_log(output: Folder, check: Callable[[], None] = lambda: None) -> ManifestLog:
    """The manifest log as a start finds it that has nothing to recover."""
    return ManifestLog(LooseTenure(output, check), KnownPictures(output))


def new_listing(
    source: Input, output: Folder, settle: float = 0, check: Callable[[], None] = lambda: None
) -> ListingDiscoverer:
    """A discoverer by listing of its own log."""
    log = new_log(output, check)
    return ListingDiscoverer(source, log, Inbox(log), timedelta(seconds=settle))


def write_lease(output: Folder, **changes: object) -> None:
    """A lease of another machine, held for an hour, but for `changes`; with none, as an earlier version wrote it."""
    now = datetime.now(UTC)
    fields = {
        "id": "other",
        "host": "elsewhere",
        "pid": 1,
        "process_started": "1",
        "since": now,
        "expires_at": now + timedelta(hours=1),
    }
    output.create(LEASE, Holder.model_validate(fields | changes).model_dump_json().encode())
