"""The pictures that a fit reads, and the record of them that a bundle keeps for the next fit.

It owns the choice, and the form of `pictures.parquet`; it must not know what is made of the pictures.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from batch_fit import forgotten
from conf.errors import InputError
from conf.s3 import S3Connection
from streaming.features import bundle
from streaming.features.denylist import NOTHING, Denylist
from streaming.features.parquet import as_parquet
from streaming.features.storage import list_pictures
from streaming.features.stored import IDENTITY_BYTES, StoredPicture

_logger = logging.getLogger(__name__)


def choose(
    source: str, limit: int | None, connection: S3Connection, denylist: Denylist = NOTHING
) -> list[StoredPicture]:
    """The pictures to fit on: all, or a sample of `limit` over the whole input, the same each time.

    Raises:
        InputError: there is none.
    """
    there = list_pictures(source, lambda path, why: _logger.warning("left out: %r %s", path, why), connection)
    listed = forgotten.leave_out(there, denylist)
    # The hash of a path has nothing to do with its place in the input.
    pictures = list(listed) if limit is None else heapq.nsmallest(limit, listed, key=lambda one: one.identity)
    if not pictures:
        raise InputError(f"{source}: there are no pictures in this folder; check --input")
    return pictures


def write_identities(identities: Collection[bytes]) -> bytes:
    """The content of a bundle's `pictures.parquet`."""
    return as_parquet(pa.table({"identity": pa.array(sorted(identities), pa.binary(IDENTITY_BYTES))}))


def read_identities(base: bundle.Bundle) -> set[bytes]:
    """The identities of the pictures that a bundle's statistics hold."""
    return set(pq.read_table(pa.BufferReader(base.file(bundle.PICTURES))).column("identity").to_pylist())
