"""Chooses the pictures that a fit reads, and records them in the bundle's `pictures.parquet` for the next fit."""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Collection

import pyarrow as pa

from batch_fit.forgotten import FORGOTTEN, leave_out
from conf.aws.connection import S3Connection
from conf.errors import InputError
from conf.plural import plural
from streaming.lease.denylist import NOTHING, Denylist
from streaming.registry import bundle
from streaming.storage.folder import StoredPicture
from streaming.storage.identities import Identities
from streaming.storage.locations import list_pictures
from streaming.storage.names import ALL_NAMES, IGNORED, Names, explain_ignored
from streaming.storage.parquet import as_parquet, rows_in

_logger = logging.getLogger(__name__)

_NOTABLE = 0.1  # a sample of a folder that has grown a little is about the same


def choose(
    source: str,
    limit: int | None,
    connection: S3Connection,
    denylist: Denylist = NOTHING,
    names: Names = ALL_NAMES,
) -> list[StoredPicture]:
    """The pictures to fit on: all, or a sample of `limit` over the whole input, the same each time.

    Files that are still being written are among them: reading them waits, and pictures that are rejected are in no
    statistics, and new to the next fit.

    Raises:
        InputError: there are no pictures.
    """
    left_out = Counter[str]()

    def skip(path: str, why: str) -> None:
        if why == IGNORED:
            left_out[why] += 1
        else:
            _logger.warning("left out: %r %s", path, why)

    there = list_pictures(source, skip, connection, names)
    listed = leave_out(there, denylist, left_out)
    # The hash of a path has nothing to do with its place in the input.
    pictures = list(listed) if limit is None else heapq.nsmallest(limit, listed, key=lambda one: one.identity)
    if not pictures:
        told = explain_ignored(left_out[IGNORED])
        if left_out[FORGOTTEN]:
            told += f"; left out, to be forgotten: {left_out[FORGOTTEN]:,}"
        raise InputError(f"{source}: there are no pictures in this folder; check --input{told}")
    if left_out[IGNORED]:
        found = plural(left_out[IGNORED], "file or folder", "files or folders")
        _logger.info("ignored by name: %s (stream.ignore, stream.include)", found)
    return pictures


def warn_of_share(seen: Identities, last: bytes, limit: int | None) -> None:
    """Warn if a model was fitted to a larger share of the pictures than is added to it now.

    Args:
        seen: the identities of its pictures.
        last: the greatest identity of the sample that is added to it.
        limit: the size of that sample.
    """
    if limit is None:
        return
    beyond = int((seen.ordered > last).sum())
    if beyond > _NOTABLE * len(seen):
        _logger.warning(
            "%d of the %d pictures of the model of --from are not in the sample of --limit %d: pictures that came "
            "since weigh less in this fit than those; raise --limit, or fit without --from",
            beyond,
            len(seen),
            limit,
        )


def write_identities(identities: Collection[bytes]) -> bytes:
    """The content of a bundle's `pictures.parquet`."""
    ordered = identities if isinstance(identities, Identities) else Identities.of(identities)
    return as_parquet(pa.table({"identity": ordered.column()}))


def read_identities(base: bundle.Bundle) -> Identities:
    """The identities of the pictures that a bundle's statistics hold."""
    return Identities.of_columns([rows_in(base.file(bundle.IDENTITIES)).column("identity")])
