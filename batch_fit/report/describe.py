"""Gathers what the report tells from what the fit has computed, and draws the sample behind the scatter plot."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_fit.classification import Classification
from batch_fit.folding import Featurized, paths_of
from batch_fit.report.classes import describe_classes
from batch_fit.report.report import FitReport, Rejections
from streaming.features.projection import Projection
from streaming.features.schema import label_of
from streaming.registry.bundle import BundleManifest

_EXAMPLES = 3


def describe_fit(
    manifest: BundleManifest,
    projection: Projection,
    featurized: Featurized,
    seconds: Mapping[str, float],
    variance_target: float | None,
    classification: Classification | None,
) -> FitReport:
    """The report of a fit."""
    accepted = featurized.accepted
    sample = accepted.filter(pc.is_valid(accepted.column("features")))
    scores = [projection.apply(row.values.to_numpy())[0] for row in sample.column("features")]
    return FitReport(
        manifest=manifest,
        labels=Counter(map(label_of, paths_of(accepted))),
        quarantined=_by_reason(featurized.rejected),
        seconds=dict(seconds),
        explained_variance=projection.explained_variance,
        variance_target=variance_target,
        scores=np.array(scores, np.float32).reshape(len(scores), projection.k),
        score_labels=[label_of(path) for path in paths_of(sample)],
        classes=describe_classes(classification) if classification else None,
    )


def _by_reason(rejected: pa.Table) -> list[Rejections]:
    """The most frequent reason first, with the first paths as examples."""
    examples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rejected.select(["path", "reason", "detail"]).sort_by("path").to_pylist():
        examples[row["reason"]].append((row["path"], row["detail"]))
    return [
        Rejections(reason, len(found), found[:_EXAMPLES])
        for reason, found in sorted(examples.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
