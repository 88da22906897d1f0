"""The handshake of `forget` with the holder of the lease: from when on nothing forgotten is written any more.

It owns OUTPUT/_forgotten/_unnoticed and _noticed.json; it must not know what is erased. The one who forgets puts an
entry on the denylist, leaves a mark, and waits; the holder sees the mark, lets the write in work end, reads the
denylist, and says which entries it has read. All that it writes from then on honours them, so what is erased after
that stays away. A holder that starts later reads the denylist after it has the lease: it needs no mark.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Self

from conf.errors import AlreadyExistsError, AppError, LeaseHeldError, NotFoundError
from streaming.features.denylist import FOLDER, NOTHING, Denylist
from streaming.features.stored import Folder
from streaming.lease import Holder, Lease, read_holder

_MARK = f"{FOLDER}/_unnoticed"
_NOTICED = f"{FOLDER}/_noticed.json"
_LOOK_SECONDS = 5.0  # each look is a paid request on S3
_WAIT_SECONDS = 0.5

_logger = logging.getLogger(__name__)

Holding = Callable[[], AbstractContextManager[Denylist]]
"""Gives the denylist, which does not grow while the context is entered: what is written within honours it for good."""


@contextmanager
def hold_nothing() -> Iterator[Denylist]:
    """A `Holding` of what nobody forgets."""
    yield NOTHING


class Notice:
    """The holder's side, with a thread that looks for the mark while the context is entered.

    Args:
        output: has the denylist, which is read now: the lease must be held already.
        holder: the id of this tenure.
    """

    def __init__(self, output: Folder, holder: str) -> None:
        self._output = output
        self._holder = holder
        self._denylist = Denylist.load(output)
        self._lock = threading.RLock()
        self._due = False
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="notice", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()

    @contextmanager
    def hold(self) -> Iterator[Denylist]:
        """See `Holding`."""
        with self._lock:
            yield self._denylist

    def look(self) -> None:
        """Take notice if somebody asks for it."""
        if not self._due and not self._output.exists(_MARK):
            return
        self._due = True  # until it is done: the mark is gone then
        # Deleted before the denylist is read: whoever adds to it afterwards leaves a new mark.
        self._output.delete(_MARK)
        with self._lock:  # what is being written now was perhaps looked at with the former denylist
            self._denylist = Denylist.load(self._output)
            self._acknowledge()
        self._due = False
        _logger.info("took notice of what is forgotten: %d requests in all", len(self._denylist.ids))

    def _acknowledge(self) -> None:
        data = json.dumps({"holder": self._holder, "entries": sorted(self._denylist.ids)}).encode()
        try:
            _, tag = self._output.read_tagged(_NOTICED)
        except NotFoundError:
            self._output.create(_NOTICED, data)
        else:
            self._output.replace(_NOTICED, data, tag)

    def _watch(self) -> None:
        while not self._leave.wait(_LOOK_SECONDS):
            try:
                self.look()
            except AppError as error:
                _logger.warning("cannot take notice of what is forgotten, trying again: %s", error)


def wait_until_noticed(
    output: Folder, entry: str, lease: timedelta, on_wait: Callable[[Holder], None] = lambda holder: None
) -> None:
    """Wait until no holder of the lease, present or to come, writes what a durable entry of the denylist forbids.

    Args:
        output: whose stream it is.
        entry: the id of the entry.
        lease: how long to hold the lease at most, where a holder has to be kept from coming back.
        on_wait: told of the holder that is waited for, once.
    """
    told = False
    while True:
        holder, _ = read_holder(output)
        if holder is None or holder.released:
            return
        if holder.is_gone(datetime.now(UTC)):
            # One that could not reach the store for a while goes on with its lease unless another has taken it.
            with suppress(LeaseHeldError):
                with Lease(output, lease):
                    pass
                return
        elif _has_noticed(output, holder.id, entry):
            return
        else:
            with suppress(AlreadyExistsError):
                output.create(_MARK, b"The stream reads the denylist again, and deletes this.\n")
        if not told:
            on_wait(holder)
            told = True
        time.sleep(_WAIT_SECONDS)


def _has_noticed(output: Folder, holder: str, entry: str) -> bool:
    try:
        noticed = json.loads(output.read(_NOTICED))
    except NotFoundError:
        return False
    return noticed["holder"] == holder and entry in noticed["entries"]
