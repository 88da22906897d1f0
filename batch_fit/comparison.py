"""Compares a new model with the current one, on pictures that neither has seen, and decides which one is current."""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from batch_fit.held_back import Evidence, HeldBack
from batch_fit.sample import read_identities
from conf.errors import ModelError
from conf.plural import plural
from streaming.features.projection import Projection
from streaming.registry.bundle import ENOUGH_HELD_BACK, BundleManifest, ModelComparison
from streaming.registry.registry import Registry

_logger = logging.getLogger(__name__)

TOLERANCE = 0.02
"""The loss of variance that still counts as not worse; fits on samples of the same pictures differ by as much."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A model in a comparison.

    Attributes:
        version: of the model.
        backbone: its id, see `backbone_id`; TensorFlow of another version converts the same weights to another one.
        weights: of its backbone.
        side: at which its backbone sees pictures.
        k: its number of components.
        evidence: the statistics and held-out pictures that it was fitted to.
        identities: of all its pictures.
        classifies: whether it has a classifier; also if it is to have none, as somebody said so.
    """

    version: str
    backbone: str
    weights: str
    side: int
    k: int
    evidence: Evidence
    identities: AbstractSet[bytes]
    classifies: bool

    def was_fitted_to(self, identity: bytes) -> bool:
        """Whether it was fitted to a picture, which was then neither held out nor unknown."""
        return identity in self.identities and identity not in self._held_back

    @cached_property
    def _held_back(self) -> frozenset[bytes]:
        return frozenset(self.evidence.held_back.identities)


def compare(new: Contender, current: Contender) -> ModelComparison:
    """Measure both models on the pictures that at least one of them held out and neither was fitted to.

    Each is fitted again without them, with as many components as it has. Both are measured with the same yardstick:
    the share of the variance that a model restores, of features scaled to variance 1 over the pictures of both.
    """
    if new.backbone != current.backbone:
        other = f"{current.weights} at {current.side} pixels, {current.backbone}"
        return _cannot_tell(current, 0, f"its features are those of another backbone than {new.backbone} ({other})")
    unseen = HeldBack.of(
        {
            identity: features
            for one in (current, new)
            for identity, features in one.evidence.held_back.by_identity().items()
            if not (new.was_fitted_to(identity) or current.was_fitted_to(identity))
        }
    )
    count = len(unseen.identities)
    if count < ENOUGH_HELD_BACK:
        why = f"only {count} held-out pictures are unknown to both, and {ENOUGH_HELD_BACK} are needed"
        return _cannot_tell(current, count, why)
    candidate, present = (one.evidence.without_held_back(one.k) for one in (new, current))
    if candidate is None or present is None:
        return _cannot_tell(current, count, "too few pictures are left to fit both again without the held-out ones")
    yardstick = new.evidence.others.merge(current.evidence.others)
    scale = np.sqrt(yardstick.scatter.diagonal() / yardstick.count)
    factor = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    variance = np.square((unseen.features - yardstick.mean) * factor).sum(axis=1).mean()
    error, present_error = (_mean_error(one, unseen.features, factor) for one in (candidate, present))
    kept, present_kept = float(1 - error / variance), float(1 - present_error / variance)
    loses = current.classifies and not new.classifies
    return ModelComparison(
        current=current.version,
        pictures=count,
        variance_kept=kept,
        current_variance_kept=present_kept,
        error=error,
        current_error=present_error,
        not_worse=kept >= present_kept - TOLERANCE and not loses,
        reason=f"of {plural(count, 'picture')} that neither has seen it keeps {kept:.1%} of the variance "
        f"(reconstruction error {error:.0f}), and {current.version} keeps {present_kept:.1%} ({present_error:.0f})"
        f"{'; but it has no classifier, as that one has' if loses else ''}",
    )


def _cannot_tell(current: Contender, pictures: int, why: str) -> ModelComparison:
    return ModelComparison(
        current=current.version, pictures=pictures, reason=f"it cannot be compared with {current.version}: {why}"
    )


def _mean_error(projection: Projection, features: NDArray[np.float32], factor: NDArray[np.float64]) -> float:
    """The mean squared distance of pictures, (m, d), to what a model restores of them, in features times `factor`."""
    standardised = (features - projection.mean) * projection.factor
    restored = standardised @ projection.components @ projection.components.T * projection.std + projection.mean
    return float(np.square((features - restored) * factor).sum(axis=1).mean())


def compare_with_current(registry: Registry, new: Contender) -> ModelComparison | None:
    """A comparison of the new model with the current one; None if there is none."""
    version = registry.current_or_none()
    if version is None:
        return None
    try:
        model = registry.open(version)
        manifest, evidence = model.manifest, Evidence.of_bundle(model)
        current = Contender(
            version,
            manifest.backbone,
            manifest.weights,
            manifest.side,
            manifest.k,
            evidence,
            read_identities(model),
            manifest.classifier is not None,
        )
    except ModelError as error:
        return ModelComparison(current=version, reason=f"it cannot be compared with {version}: {error}")
    comparison = compare(new, current)
    _logger.info("model %s: %s", new.version, comparison.reason, extra={"data": comparison.model_dump()})
    return comparison


def promote_if_asked(registry: Registry, model: BundleManifest, when: str) -> bool:
    """Make a model the current one if the setting `fit.promote` says so; returns whether it did.

    Raises:
        ModelError: it cannot be, or somebody promoted another one at the same time.
    """
    compared = model.comparison
    if when == "never" or (when == "if-not-worse" and compared and not compared.not_worse):
        return False
    try:
        if when == "always":
            registry.promote(model.version)
            return True
        if registry.promote_over(model.version, compared.current if compared else None):
            return True
    except ModelError as error:
        raise ModelError(f"model {model.version} is saved, and not current: {error}") from error
    _logger.warning(
        "model %s is not promoted: another model became the current one since it was compared with %s",
        model.version,
        compared.current if compared else "none",
    )
    return False
