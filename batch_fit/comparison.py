"""A new model against the current one, on pictures that neither has seen.

It owns the yardstick and the verdict; it must not know what is done about it.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from batch_fit.held_back import Evidence, HeldBack
from streaming.features.bundle import ENOUGH_HELD_BACK, Comparison
from streaming.features.projection import Projection

TOLERANCE = 0.02
"""So much less of the variance still counts as not worse; fits on samples of the same pictures differ by as much."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A model in a comparison.

    Attributes:
        version: of the model.
        weights: of its backbone.
        k: its number of components.
        evidence: what it was fitted to.
        identities: of all its pictures.
    """

    version: str
    weights: str
    k: int
    evidence: Evidence
    identities: AbstractSet[bytes]

    def was_fitted_to(self, identity: bytes) -> bool:
        """Whether it has learnt from a picture, rather than held it back or not seen it at all."""
        return identity in self.identities and identity not in self._held_back

    @cached_property
    def _held_back(self) -> frozenset[bytes]:
        return frozenset(self.evidence.held_back.identities)


def compare(new: Contender, current: Contender) -> Comparison:
    """Measure both models on the pictures that at least one of them held back and neither was fitted to.

    Each is fitted anew without them, with as many components as it has. Both are measured with the same yardstick: the
    features, each scaled to variance 1 over the pictures of both, and how much of the variance the model restores.
    """
    if new.weights != current.weights:
        return _cannot_tell(current, 0, f"its features are those of another backbone ({current.weights})")
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
        return _cannot_tell(current, count, f"{count} pictures were held back from both, and {ENOUGH_HELD_BACK} needed")
    candidate, present = (one.evidence.without_held_back(one.k) for one in (new, current))
    if candidate is None or present is None:
        return _cannot_tell(current, count, "without the pictures held back there are too few to fit both anew")
    yardstick = new.evidence.others.merge(current.evidence.others)
    scale = np.sqrt(yardstick.scatter.diagonal() / yardstick.count)
    factor = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    variance = np.square((unseen.features - yardstick.mean) * factor).sum(axis=1).mean()
    error, present_error = (_mean_error(one, unseen.features, factor) for one in (candidate, present))
    kept, present_kept = float(1 - error / variance), float(1 - present_error / variance)
    return Comparison(
        current=current.version,
        pictures=count,
        variance_kept=kept,
        current_variance_kept=present_kept,
        error=error,
        current_error=present_error,
        not_worse=kept >= present_kept - TOLERANCE,
        reason=f"of {count:,} pictures that neither has seen it keeps {kept:.1%} of the variance (reconstruction error "
        f"{error:.0f}), and {current.version} keeps {present_kept:.1%} ({present_error:.0f})",
    )


def _cannot_tell(current: Contender, pictures: int, why: str) -> Comparison:
    return Comparison(
        current=current.version, pictures=pictures, reason=f"it cannot be compared with {current.version}: {why}"
    )


def _mean_error(projection: Projection, features: NDArray[np.float32], factor: NDArray[np.float64]) -> float:
    """The mean squared distance of pictures, (m, d), to what a model restores of them, in features times `factor`."""
    standardised = (features - projection.mean) * projection.factor
    restored = standardised @ projection.components @ projection.components.T * projection.std + projection.mean
    return float(np.square((features - restored) * factor).sum(axis=1).mean())
