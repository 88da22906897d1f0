"""Gathers what the report tells from what the fit has computed.

It owns the counting and the sample behind the scatter plot; it must not know how the page looks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_fit.featurize import Featurized
from batch_fit.report import FitReport, Quarantined
from streaming.features.bundle import BundleManifest
from streaming.features.projection import Projection
from streaming.features.schema import label_of

_EXAMPLES = 3


def describe(
    manifest: BundleManifest,
    projection: Projection,
    featurized: Featurized,
    seconds: Mapping[str, float],
    variance_target: float | None,
) -> FitReport:
    """The report of a fit."""
    accepted = featurized.accepted
    sample = accepted.filter(pc.is_valid(accepted.column("features")))
    scores = [projection.apply(row.values.to_numpy())[0] for row in sample.column("features")]
    return FitReport(
        version=manifest.version,
        created_at=manifest.created_at,
        weights=manifest.weights,
        input=manifest.input,
        limit=manifest.limit,
        from_version=manifest.from_version,
        held_back=manifest.held_back,
        comparison=manifest.comparison,
        pictures=manifest.pictures,
        labels=Counter(_labels(accepted)),
        quarantined=_by_reason(featurized.rejected),
        seconds=dict(seconds),
        explained_variance=projection.explained_variance,
        k=projection.k,
        variance_target=variance_target,
        scores=np.array(scores, np.float32).reshape(len(scores), projection.k),
        score_labels=_labels(sample),
    )


def _labels(rows: pa.Table) -> list[str]:
    return [label_of(path) for path in rows.column("path").to_pylist()]


def _by_reason(rejected: pa.Table) -> list[Quarantined]:
    examples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rejected.select(["path", "reason", "detail"]).sort_by("path").to_pylist():
        examples[row["reason"]].append((row["path"], row["detail"]))
    return [
        Quarantined(reason, len(found), found[:_EXAMPLES])
        for reason, found in sorted(examples.items(), key=lambda item: -len(item[1]))
    ]
