"""The model that the stream serves: chosen from CURRENT at each micro-batch, broadcast once per version.

It owns the lifetime of the broadcast; it must not know what workers do with it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pyspark import SparkContext
from pyspark.core.broadcast import Broadcast

from conf.errors import AppError
from conf.settings import Settings
from streaming.features.backbone import BackboneRunner
from streaming.features.bundle import HeldBackFigures
from streaming.features.featurizer import Recipe
from streaming.features.registry import Registry

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model as the executors have it."""

    version: str
    recipe: Broadcast[Recipe]
    held_back: HeldBackFigures | None


class ModelSource:
    """Gives each micro-batch its model.

    Attributes:
        refused: whether the current model cannot be used, so that the last good one is kept.
    """

    def __init__(self, context: SparkContext, registry: Registry, settings: Settings) -> None:
        self._context = context
        self._registry = registry
        self._settings = settings
        self._served: ServedModel | None = None
        self.refused = False

    def current(self) -> ServedModel:
        """The current model; where CURRENT or its bundle is not usable, the last good one.

        Raises:
            ModelError: it is not usable, and there was no good one before.
        """
        try:
            version = self._registry.current()
            if self._served is None or self._served.version != version:
                self._serve(version)
            self.refused = False
        except AppError as error:
            if self._served is None:
                raise
            self.refused = True
            _logger.warning("keeping model %s: %s", self._served.version, error)
        assert self._served is not None
        return self._served

    def _serve(self, version: str) -> None:
        model = self._registry.open(version)
        recipe = model.recipe(self._settings)
        BackboneRunner(recipe.backbone)  # one that does not run must not reach a worker
        _ = recipe.content_hash  # once here, instead of once per worker
        former = self._served
        self._served = ServedModel(version, self._context.broadcast(recipe), model.manifest.held_back)
        if former:
            _logger.info("model %s replaces %s", version, former.version)
            former.recipe.unpersist()
