"""The mark OUTPUT/_drain, by which `streaming stop` asks the holder of the lease to end, and waiting for its end."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime

from conf.errors import AlreadyExistsError, ConflictError
from streaming.lease.holder import Holder, read_holder
from streaming.lease.lease import DRAIN
from streaming.storage.documents import create_or_replace, read_if_there
from streaming.storage.folder import Folder

_LOOK_SECONDS = 0.2


def wait_until_gone(output: Folder, holder: Holder) -> bool:
    """Wait for a holder to end: True if it has ended, False if its lease expired and it may yet renew it."""
    while True:
        present, _ = read_holder(output)
        if present is None or present.id != holder.id or present.released or present.is_dead():
            return True
        if present.is_gone(datetime.now(UTC)):
            return False
        time.sleep(_LOOK_SECONDS)


def request_drain(output: Folder) -> Holder | None:
    """Ask the holder of the lease to finish its micro-batch and stop; returns it, or None if no holder is alive.

    The mark names the holder, and nobody deletes it: the next request replaces it.
    """
    while True:
        mark, tag = read_if_there(output, DRAIN)  # before the holder is read: a mark for a later one is not replaced
        holder, _ = read_holder(output)
        if holder is None or holder.released or holder.is_dead():
            return None
        wanted = holder.id.encode()
        if mark == wanted:
            return holder
        with suppress(AlreadyExistsError, ConflictError):  # another request, at the same moment
            create_or_replace(output, DRAIN, wanted, tag)
            return holder
