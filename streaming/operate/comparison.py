"""Compares listed pictures with those that the stream has seen.

These rules are all there is to `reconcile`, whether this process compares whole tables or Spark's workers compare
parts of them. A picture is

- `missed`: listed, in no manifest, and not requested;
- `unsettled`: the same, but perhaps still being written;
- `requested`: listed, in no manifest, and requested;
- `changed`: listed, and in its latest manifest with another length, ETag or time. On S3 the time may differ by a
  minute, as that of an event is not quite the object's;
- `gone`: not listed, and in a manifest from before the listing began. It lies in the input, and is not ignored by its
  name: what is ignored by now is not listed, but may exist.

All others are as they should be, or cannot be judged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from streaming.discovery.settling import PAST_SECONDS
from streaming.features.schema import PICTURES, TIMESTAMP, as_table
from streaming.output.known import KNOWN_FOLDER
from streaming.output.manifests import manifest_ids
from streaming.output.places import Input
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import is_on_s3
from streaming.storage.names import Names

LISTED = pa.schema(
    [
        pa.field("identity", pa.binary(), nullable=False),
        *PICTURES,
        pa.field("settled", pa.bool_(), nullable=False),
    ]
)
"""A listed picture: its identity, `PICTURES`, and whether it is no longer being written."""

SEEN = pa.schema([pa.field("identity", pa.binary(), nullable=False), pa.field("manifest", pa.string()), *PICTURES])
"""A picture that the stream has seen: its identity, a manifest that lists it (null for a request), and `PICTURES`."""

DIFFERENCES = pa.schema(
    [
        pa.field("what", pa.string(), nullable=False),
        *(pa.field(field.name, field.type) for field in PICTURES),
        pa.field("known_length", pa.int64()),
        pa.field("known_modification_time", TIMESTAMP),
    ]
)
"""A difference: its kind, the listed picture (null if gone), and length and time as the stream has seen them."""

_ROWS_PER_BATCH = 10_000
_ATTEMPTS = 3
_S3_TOLERANCE = timedelta(seconds=60)

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def as_listed(pictures: Iterable[StoredPicture], settle: timedelta) -> Iterator[pa.RecordBatch]:
    """Pictures as `LISTED`.

    A local file that was touched in the last minute plus `settle`, or in the future, may still be being written, as one
    look cannot tell; 0 takes every file for complete.
    """
    seconds, rest = settle.total_seconds(), iter(pictures)
    while page := list(islice(rest, _ROWS_PER_BATCH)):
        settled = [not seconds or picture.is_of_the_past(PAST_SECONDS + seconds) for picture in page]
        yield from pa.table([_identities(page), *as_table(page).columns, settled], schema=LISTED).to_batches()


def as_seen(pictures: Sequence[StoredPicture], manifest: str | None) -> pa.Table:
    """The pictures of a manifest, or of a request, as `SEEN`."""
    manifests = pa.array([manifest] * len(pictures), pa.string())
    return pa.table([_identities(pictures), manifests, *as_table(pictures).columns], schema=SEEN)


def _identities(pictures: Sequence[StoredPicture]) -> pa.Array:
    return pa.array([picture.identity for picture in pictures], pa.binary())


@dataclass(frozen=True)
class InputComparison:
    """The rules for an input; a value that may be sent to workers.

    Attributes:
        folder: canonical path of the input, with a slash at the end.
        names: which of the files in it are pictures.
        since: what the ids of manifests begin with that were written when the listing began.
        tolerance: difference between two times of the same picture.
    """

    folder: str
    names: Names
    since: str
    tolerance: timedelta

    @classmethod
    def of(cls, source: Input, started: datetime) -> Self:
        """For an input whose listing began at `started`, in UTC."""
        tolerance = _S3_TOLERANCE if is_on_s3(source.root) else timedelta(0)
        return cls(f"{source.root.rstrip('/')}/", source.names, f"{started:%Y%m%dT%H%M%S%fZ}", tolerance)

    def differences(self, listed: pa.Table, seen: pa.Table) -> pa.Table:
        """`DIFFERENCES` between `LISTED` and `SEEN`, in no order; `seen` may have a picture several times."""
        joined = listed.join(self._latest(seen), "identity", join_type="full outer")
        found = {what: joined.filter(rule) for what, rule in self._rules().items()}
        named = [rows.append_column("what", pa.repeat(what, len(rows))) for what, rows in found.items()]
        return pa.concat_tables(named).select(DIFFERENCES.names).cast(DIFFERENCES)

    def _latest(self, seen: pa.Table) -> pa.Table:
        """Each picture of the input once, with its latest manifest, if any: its columns are `known_...`."""
        inside = seen.filter(pa.array(map(self._takes, seen.column("path").to_pylist()), pa.bool_()))
        ordered = inside.sort_by([("manifest", "descending")])  # null comes last
        numbered = ordered.select(["identity"]).append_column("row", pa.array(range(len(ordered)), pa.int64()))
        first = numbered.group_by("identity").aggregate([("row", "min")]).column("row_min")
        names = [name if name == "identity" else f"known_{name}" for name in ordered.column_names]
        return ordered.take(first).rename_columns(names)

    def _takes(self, path: str) -> bool:
        return path.startswith(self.folder) and self.names.takes(path[len(self.folder) :])

    def _rules(self) -> dict[str, pc.Expression]:
        """For each kind, which rows of a full outer join are of it."""
        settled, manifest = pc.field("settled"), pc.field("known_manifest")
        listed, seen = pc.field("path").is_valid(), pc.field("known_path").is_valid()
        return {
            "missed": listed & ~seen & settled,
            "unsettled": listed & ~seen & ~settled,
            "requested": listed & seen & ~manifest.is_valid(),
            "changed": listed & manifest.is_valid() & self._has_changed(),
            "gone": ~listed & (manifest < self.since),
        }

    def _has_changed(self) -> pc.Expression:
        now, before = (pc.field(name).cast(pa.int64()) for name in ("modification_time", "known_modification_time"))
        return (
            (pc.field("length") != pc.field("known_length"))
            | (pc.field("etag") != pc.field("known_etag"))  # no tag on either side says nothing
            | (pc.abs(now - before) > self.tolerance // timedelta(microseconds=1))
        )


def at_rest(output: Folder, compare: Callable[[], _Result]) -> _Result:
    """The result of `compare`, called again if the stream folded its log meanwhile: that moves pictures among files."""
    attempt = 1
    while True:
        log, record = {*manifest_ids(output)}, list(output.names(KNOWN_FOLDER))
        found = compare()
        # A fold deletes manifests last, and may have filled a file of the record that was there before without rows.
        same = list(output.names(KNOWN_FOLDER)) == record and log <= {*manifest_ids(output)}
        if same or attempt == _ATTEMPTS:
            return found
        _logger.info("the stream folded its log meanwhile; comparing again")
        attempt += 1
