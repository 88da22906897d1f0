"""Completes, at the start, the work that former holders of the lease have left unfinished.

A holder that was killed may leave a decision that is not completed; one that was paused past its lease may write one
more decision, or append one more manifest, after its successor has begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from streaming.lease.denylist import Denylist, read_entries
from streaming.lease.tenure import Tenure
from streaming.output.decision import (
    FEATURES_TABLE,
    QUARANTINE_TABLE,
    complete_manifest,
    complete_manifests,
    empty_quarantine,
    withdraw,
)
from streaming.output.embeddings import EMBEDDINGS_TABLE, clear, publish_staged
from streaming.output.known import KnownPictures, refuse_announced
from streaming.output.manifest_log import withdraw_repeating
from streaming.output.manifests import delete_mark, marked_withdrawn, table_file, written_at
from streaming.output.requests import announced_withdrawals
from streaming.output.rows import erase_in
from streaming.output.tables import finished, unfinished
from streaming.storage.folder import Folder

_CLOCKS = timedelta(hours=1)  # the clocks of those who append and those who forget may differ


def recover(tenure: Tenure) -> KnownPictures:
    """Complete unfinished work of former holders, and read the known pictures."""
    output = tenure.output
    with tenure.writing() as denylist:
        refuse_announced(output)
        for manifest in marked_withdrawn(output):
            withdraw(output, manifest)
            delete_mark(output, manifest)
        for manifest in announced_withdrawals(output):
            withdraw(output, manifest)
        waiting = unfinished(output)
        for manifest in _with_file(output, QUARANTINE_TABLE, waiting):
            empty_quarantine(output, manifest)
        for manifest in _with_file(output, EMBEDDINGS_TABLE, waiting):
            clear(output, manifest)
        finish_manifests(output, denylist)
    return withdraw_repeating(tenure)


def finish_manifests(output: Folder, denylist: Denylist) -> list[str]:
    """Complete all decided manifests in the log, whoever decided them; returns those that were not withdrawn."""
    decided = complete_manifests(output, finished(output))
    publish_staged(output)
    latest = max((entry.asked_at for entry in read_entries(output)), default=None)
    for manifest in decided:
        if latest and written_at(manifest) < latest + _CLOCKS:
            _erase(output, manifest, denylist)
    return decided


def finish_manifest(output: Folder, manifest: str, denylist: Denylist) -> None:
    """Complete a manifest that another attempt has decided, and erase pictures that were forgotten since."""
    complete_manifest(output, manifest)
    publish_staged(output, manifest)
    if denylist:
        _erase(output, manifest, denylist)


def _erase(output: Folder, manifest: str, denylist: Denylist) -> None:
    for table in (FEATURES_TABLE, QUARANTINE_TABLE, EMBEDDINGS_TABLE):
        erase_in(output, table_file(table, manifest), denylist)


def _with_file(output: Folder, table: str, manifests: Sequence[str]) -> list[str]:
    """Those manifests that have a file in a table."""
    files = {table_file(table, manifest): manifest for manifest in manifests}
    days = sorted({name.rpartition("/")[0] for name in files})
    return [files[name] for day in days for name in output.names(day) if name in files]
