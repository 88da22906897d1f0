"""Decides whether a new model becomes the current one."""

from __future__ import annotations

import logging

from batch_fit.comparison import Contender, compare
from batch_fit.held_back import Evidence
from batch_fit.sample import read_identities
from conf.errors import ModelError
from streaming.registry import bundle
from streaming.registry.registry import Registry

_logger = logging.getLogger(__name__)


def compare_with_current(registry: Registry, new: Contender) -> bundle.ModelComparison | None:
    """A comparison of the new model with the current one; None if there is none."""
    version = registry.current_or_none()
    if version is None:
        return None
    try:
        model = registry.open(version)
        current = Contender(
            version, model.manifest.weights, model.manifest.k, Evidence.of_bundle(model), read_identities(model)
        )
    except ModelError as error:
        return bundle.ModelComparison(current=version, reason=f"it cannot be compared with {version}: {error}")
    comparison = compare(new, current)
    _logger.info("model %s: %s", new.version, comparison.reason, extra={"data": comparison.model_dump()})
    return comparison


def promote_if_asked(registry: Registry, model: bundle.BundleManifest, when: str) -> bool:
    """Make a model the current one if the setting `fit.promote` says so; returns whether it did."""
    is_not_worse = model.comparison is None or model.comparison.not_worse
    promoted = when == "always" or (when == "if-not-worse" and is_not_worse)
    if promoted:
        registry.promote(model.version)
    return promoted
