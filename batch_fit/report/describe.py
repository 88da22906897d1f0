"""Gathers what the report tells from what the fit has computed, and draws the sample behind the scatter plot."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_fit.classification import Classification
from batch_fit.folding import Featurized, paths_of
from batch_fit.held_back import Evidence, measure_errors
from batch_fit.plan import FitPlan
from batch_fit.report.classes import describe_classes
from batch_fit.report.pictures import Sample, Worst
from batch_fit.report.report import FitReport, Rejections
from conf.settings import FitSettings
from streaming.features.projection import Projection
from streaming.features.schema import label_of
from streaming.features.thumbnails import is_drawable
from streaming.registry.bundle import BundleManifest
from streaming.storage.folder import identity_of

_EXAMPLES = 3
_DRAWABLE_EXAMPLES = 12


def describe_fit(
    plan: FitPlan,
    manifest: BundleManifest,
    projection: Projection,
    featurized: Featurized,
    classification: Classification | None,
    options: FitSettings,
) -> FitReport:
    """The report of a fit, without what is measured around it."""
    accepted = featurized.accepted
    sample = accepted.filter(pc.is_valid(accepted.column("features")))
    projected = [projection.apply(row.values.to_numpy()) for row in sample.column("features")]
    paths = [*paths_of(sample)]
    return FitReport(
        manifest=manifest,
        models=plan.models.root,
        labels=Counter(map(label_of, paths_of(accepted))),
        quarantined=_by_reason(featurized.rejected),
        seconds={},
        explained_variance=projection.explained_variance,
        variance_target=options.variance_target,
        worst=Worst.of(paths, np.array([error for _, error in projected]), held_out=False),
        sample=Sample(
            paths=paths,
            labels=[*map(label_of, paths)],
            scores=np.array([scores for scores, _ in projected], np.float32).reshape(len(paths), projection.k),
        ),
        is_on_embeddings=options.embeddings is not None,
        classes=describe_classes(classification) if classification else None,
    )


def describe_worst(evidence: Evidence, accepted: pa.Table, k: int) -> Worst | None:
    """The worst of the held-out pictures that this fit has read; None if there are too few pictures to tell.

    Args:
        evidence: of the fit and its base.
        accepted: rows with the paths of the pictures that this fit has read.
        k: the number of components of the model that has not seen them.
    """
    places = {identity: place for place, identity in enumerate(evidence.held_back.identities)}
    found = [(path, places[identity]) for path in paths_of(accepted) if (identity := identity_of(path)) in places]
    unseen = evidence.without_held_back(k) if found else None
    if unseen is None:
        return None
    paths, rows = zip(*found, strict=True)
    errors, _ = measure_errors(unseen, evidence.held_back.features[[*rows]])
    return Worst.of(paths, errors, held_out=True)


def _by_reason(rejected: pa.Table) -> list[Rejections]:
    """The most frequent reason first, with the first paths as examples."""
    examples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rejected.select(["path", "reason", "detail"]).sort_by("path").to_pylist():
        examples[row["reason"]].append((row["path"], row["detail"]))
    return [
        Rejections(reason, len(found), found[: _DRAWABLE_EXAMPLES if is_drawable(reason) else _EXAMPLES])
        for reason, found in sorted(examples.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
