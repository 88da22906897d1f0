"""The handshake between `forget` and the holder of the lease, after which nothing forgotten is written any more.

`forget` puts an entry on the denylist, creates the mark OUTPUT/_forgotten/_unnoticed, and waits. The holder sees the
mark, lets the present write end, reloads the denylist, and acknowledges the entries in OUTPUT/_forgotten/_noticed.json.
Everything it writes from then on honours them, so rows erased after that do not come back. A holder that starts later
reads the denylist after it has taken the lease and needs no mark.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Self

from conf.errors import AlreadyExistsError, LeaseHeldError, NotFoundError
from conf.plural import plural
from streaming.lease.denylist import DENYLIST_FOLDER, NOTHING, Denylist
from streaming.lease.holder import Holder, read_holder
from streaming.lease.lease import Lease
from streaming.storage.damaged import naming
from streaming.storage.documents import create_or_replace, read_if_there
from streaming.storage.folder import Folder

_MARK = f"{DENYLIST_FOLDER}/_unnoticed"
_NOTICED = f"{DENYLIST_FOLDER}/_noticed.json"
_LOOK_SECONDS = 5.0  # each look is a paid request on S3
_WAIT_SECONDS = 0.5

_logger = logging.getLogger(__name__)


class Notice:
    """The holder's side of the handshake: a thread looks for the mark while the context is entered.

    Args:
        output: has the denylist.
        lease: must be held when the context is entered, which loads the denylist.
    """

    def __init__(self, output: Folder, lease: Lease) -> None:
        self._output = output
        self._lease = lease
        self._denylist = NOTHING
        self._lock = threading.RLock()
        self._due = False
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="notice", daemon=True)

    def __enter__(self) -> Self:
        self._denylist = Denylist.load(self._output)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()

    @contextmanager
    def hold(self) -> Iterator[Denylist]:
        """See `Tenure.writing`."""
        with self._lock:
            self._lease.check()
            yield self._denylist

    def look(self) -> None:
        """Reload and acknowledge the denylist if there is a mark."""
        if not self._due and not self._output.exists(_MARK):
            return
        self._due = True  # until it is done: the mark is gone then
        # Deleted before the denylist is read: whoever adds to it afterwards leaves a new mark.
        self._output.delete(_MARK)
        with self._lock:  # the present write may have been filtered with the former denylist
            self._denylist = Denylist.load(self._output)
            self._acknowledge()
        self._due = False
        _logger.info("denylist reloaded: %s", plural(len(self._denylist.ids), "entry", "entries"))

    def _acknowledge(self) -> None:
        data = json.dumps({"holder": self._lease.holder.id, "entries": sorted(self._denylist.ids)}).encode()
        _, tag = read_if_there(self._output, _NOTICED)
        create_or_replace(self._output, _NOTICED, data, tag)

    def _watch(self) -> None:
        while not self._leave.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:  # without this thread, forget would wait for ever
                _logger.warning("cannot read the denylist again, and forget waits for that; trying again: %s", error)
                _logger.debug("cannot read the denylist again", exc_info=error)


def wait_until_noticed(
    output: Folder, entry: str, lease: timedelta, on_wait: Callable[[Holder], None] = lambda holder: None
) -> None:
    """Wait until no present or future holder of the lease writes the pictures that a durable entry forbids.

    Args:
        output: has the lease and the denylist.
        entry: the id of the entry.
        lease: how long to hold the lease at most, where a former holder must be kept from renewing it.
        on_wait: called once with the present holder, if there is one to wait for.
    """
    told = False
    while True:
        holder, _ = read_holder(output)
        if holder is None or holder.released:
            return
        if holder.is_gone(datetime.now(UTC)):
            # A holder that could not reach the store for a while renews its lease unless another has taken it.
            with suppress(LeaseHeldError):
                with Lease(output, lease) as taken:  # not `stopped as asked`: monitors have to hear of it
                    taken.note_failure(f"{holder} died or could not reach the output, and forget ended its lease")
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
        data = output.read(_NOTICED)
    except NotFoundError:
        return False
    with naming(output.path(_NOTICED), "delete it"):
        noticed = json.loads(data)
        return noticed["holder"] == holder and entry in noticed["entries"]
