"""What a micro-batch did: told as it happens, and kept in the footer of its features file.

It owns these figures and their form in Parquet; it must not know who measures them or who reads them.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

METADATA_KEY = b"picture-features"


@dataclass(frozen=True)
class Backlog:
    """What a replay has to do.

    Attributes:
        pictures: in manifests that are not finished.
        unsettled: pictures left out because they were still being written.
    """

    pictures: int
    unsettled: int


@dataclass(frozen=True)
class BatchReport:
    """What a micro-batch did.

    Attributes:
        manifest: its identity.
        pictures: rows in features and quarantine together.
        quarantined: rows in quarantine, by reason.
        seconds: from the start of its featurizing to its commit.
        seconds_behind: from the writing of its manifest to its commit.
        model_version: the model of all its rows.
        drift: see `drift.DriftMonitor`; None if the model cannot tell.
        model_refused: whether it kept the last good model because the current one cannot be used.
    """

    manifest: str
    pictures: int
    quarantined: Counter[str]
    seconds: float
    seconds_behind: float
    model_version: str
    drift: float | None
    model_refused: bool = False

    def as_metadata(self) -> dict[bytes, bytes]:
        """As the metadata of a Parquet file."""
        return {METADATA_KEY: json.dumps(vars(self)).encode()}


def read_batch_report(data: bytes) -> BatchReport | None:
    """The report in a features file, of which the last bytes will do, if they hold the footer; None if there is none.

    Its times are those just before the file was written.
    """
    metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    if METADATA_KEY not in metadata:
        return None
    fields = json.loads(metadata[METADATA_KEY])
    return BatchReport(**{**fields, "quarantined": Counter(fields["quarantined"])})
