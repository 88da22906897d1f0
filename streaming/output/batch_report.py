"""The report of a micro-batch: its figures, and their form in the footer of its features file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from streaming.storage.parquet import Footer

METADATA_KEY = b"picture-features"


@dataclass(frozen=True)
class Backlog:
    """The pictures that a replay has to featurize.

    Attributes:
        pictures: in manifests that are not finished.
        unsettled: pictures left out because they were still being written.
    """

    pictures: int
    unsettled: int


@dataclass(frozen=True)
class BatchReport:
    """The figures of a micro-batch.

    Attributes:
        manifest: its identity.
        pictures: rows in features and quarantine together.
        quarantined: rows in quarantine, by reason.
        seconds: from the start of its featurizing to its commit.
        seconds_behind: from the writing of its manifest to its commit.
        model_version: the model of all its rows.
        drift: see `drift.DriftMonitor`; None if the model has too few held-out pictures.
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

    def as_footer(self) -> Footer:
        """The report in the form in which a features file carries it."""
        return {METADATA_KEY: json.dumps(vars(self)).encode()}


def read_batch_report(footer: Footer) -> BatchReport | None:
    """The report in the footer of a features file; None if there is none.

    Its times are those just before the file was written.
    """
    if METADATA_KEY not in footer:
        return None
    fields = json.loads(footer[METADATA_KEY])
    return BatchReport(**{**fields, "quarantined": Counter(fields["quarantined"])})
