"""Which pictures were seen already: the memory of discovery.

It owns the compact record of finished manifests under OUTPUT/_known and the in-memory set made from it and from the
manifests that are still in the log; it must not know how pictures are found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from conf.errors import AlreadyExistsError, OutputError
from streaming.features.denylist import NOTHING, Denylist
from streaming.features.parquet import as_parquet
from streaming.features.schema import PICTURES, as_table
from streaming.features.stored import IDENTITY_BYTES, Folder, StoredPicture
from streaming.manifests import FOLDER as LOG
from streaming.manifests import RETRY, manifest_ids, manifest_name, read_manifest, table_file, written_at
from streaming.sink import EMPTY, FEATURES_TABLE

FOLDER = "_known"
_MERGE_BELOW_ROWS = 250_000
_COMPACT_AFTER = 250_000

SCHEMA = pa.schema(
    [
        pa.field("hash", pa.binary(IDENTITY_BYTES), nullable=False),
        pa.field("manifest", pa.string(), nullable=False),
        *PICTURES,
    ]
)
"""The record: the identity of a picture, the manifest that listed it, and `PICTURES`."""


class KnownPictures:
    """The set of pictures that some manifest lists. 16 bytes of memory for each, but for the latest.

    Attributes:
        repeating: manifests in the log that list a picture which the record or an earlier one lists; but for those of
            retries, whose purpose it is.
    """

    def __init__(self, output: Folder) -> None:
        """Read the record and the log of an output."""
        files = [_hashes(output.read(name)) for name in output.names(FOLDER)]
        self._compact: NDArray[np.bytes_] = np.unique(np.concatenate([_as_array([]), *files]))
        self._recent: set[bytes] = set()
        self.repeating: list[str] = []
        for manifest in manifest_ids(output):
            if manifest.endswith(RETRY):
                continue
            pictures = read_manifest(output, manifest)
            unknown = self.unknown(pictures)
            if len(unknown) < len(pictures):
                self.repeating.append(manifest)
            self.add(unknown)

    def __len__(self) -> int:
        return len(self._compact) + len(self._recent)

    def add(self, pictures: Iterable[StoredPicture]) -> None:
        """Remember pictures."""
        self._recent.update(picture.identity for picture in pictures)
        if len(self._recent) >= _COMPACT_AFTER:
            fresh = _as_array(sorted(self._recent))
            self._compact = np.insert(self._compact, np.searchsorted(self._compact, fresh), fresh)
            self._recent.clear()

    def unknown(self, pictures: Sequence[StoredPicture]) -> list[StoredPicture]:
        """Those of `pictures` that were not seen before, in their order."""
        hashes = [picture.identity for picture in pictures]
        keys = _as_array(hashes)
        places = np.searchsorted(self._compact, keys)
        folded = np.zeros(len(keys), bool)
        inside = places < len(self._compact)
        folded[inside] = self._compact[places[inside]] == keys[inside]
        return [
            picture
            for picture, digest, known in zip(pictures, hashes, folded, strict=True)
            if not known and digest not in self._recent
        ]


def _as_array(hashes: Sequence[bytes]) -> NDArray[np.bytes_]:
    return np.frombuffer(b"".join(hashes), dtype=f"S{IDENTITY_BYTES}")


def _hashes(data: bytes) -> NDArray[np.bytes_]:
    column = pq.read_table(pa.BufferReader(data), columns=["hash"]).column("hash")
    return _as_array(column.to_pylist())


def fold(output: Folder, manifests: Sequence[str], denylist: Denylist = NOTHING) -> None:
    """Move finished manifests from the log into the record, but for what the denylist forbids.

    The record is written before anything is deleted, so that a kill at any point leaves each picture in at least one
    of the two. A small last file is merged into the new one, so that the number of files stays small for years.
    """
    if not manifests:
        return
    tables = [_as_table(manifest, read_manifest(output, manifest)) for manifest in manifests]
    former = None
    if names := list(output.names(FOLDER)):
        last = pq.read_table(pa.BufferReader(output.read(names[-1])))
        if len(last) < _MERGE_BELOW_ROWS:
            former = names[-1]
            tables.insert(0, last.filter(pc.invert(pc.is_in(last.column("manifest"), pa.array(manifests)))))
    data = as_parquet(denylist.without(pa.concat_tables(tables)))
    latest = max(*manifests, _latest_in(former))  # a clock may have been set back
    name = f"{FOLDER}/{latest}-{hashlib.sha256(data).hexdigest()[:8]}.parquet"
    with suppress(AlreadyExistsError):  # a killed run came this far: the same name means the same content
        output.create(name, data)
    if former and former != name:
        output.delete(former)
    output.delete_all([manifest_name(manifest) for manifest in manifests])


def _as_table(manifest: str, pictures: Sequence[StoredPicture]) -> pa.Table:
    listed = as_table(pictures)
    columns = {"hash": [picture.identity for picture in pictures], "manifest": [manifest] * len(listed)}
    return pa.table({**columns, **{name: listed.column(name) for name in PICTURES.names}}, schema=SCHEMA)


def is_folded(output: Folder, manifest: str) -> bool:
    """Whether the record holds a manifest. It reads the record: for the rare question only."""
    for name in output.names(FOLDER):
        column = pq.read_table(pa.BufferReader(output.read(name)), columns=["manifest"]).column("manifest")
        if pc.any(pc.equal(column, manifest)).as_py():
            return True
    return False


def check_log(output: Folder) -> None:
    """Make sure that all that is in the tables and not in the record is in the log.

    Raises:
        OutputError: manifests were deleted by a hand, and their pictures would be featurized twice.
    """
    log = {*manifest_ids(output)}
    folded = max(map(_latest_in, output.names(FOLDER)), default="")
    tables = _days_since(output, folded) if folded else output.names(FEATURES_TABLE)
    done = (name.rpartition("/")[2].removesuffix(".parquet") for name in tables)
    done = (manifest for manifest in done if not manifest.endswith(RETRY))  # others list its pictures
    missing = [manifest for manifest in done if manifest > folded and manifest != EMPTY and manifest not in log]
    if missing:
        raise OutputError(
            f"{len(missing)} manifests are gone from {output.path(LOG)} though their rows are in the tables, like "
            f"{missing[0]}; put them back, or delete {output.path(table_file(FEATURES_TABLE, missing[0]))} and the "
            "same file of quarantine, too: then their pictures are found and featurized anew"
        )


def _latest_in(record: str | None) -> str:
    """The latest manifest in a file of the record, by its name."""
    return record.rpartition("/")[2].rpartition("-")[0] if record else ""


def _days_since(output: Folder, manifest: str) -> Iterator[str]:
    day, today = written_at(manifest).date(), datetime.now(UTC).date()
    while day <= today:
        yield from output.names(f"{FEATURES_TABLE}/date={day}")
        day += timedelta(days=1)
