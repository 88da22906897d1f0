"""Serves the model of each micro-batch: chosen by CURRENT, broadcast once per version.

A model that cannot be used does not replace the last good one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pyspark import SparkContext
from pyspark.core.broadcast import Broadcast

from conf.errors import AppError
from conf.settings import Settings
from streaming.features.backbone import BackboneRunner, backbone_id
from streaming.features.featurizer import Recipe
from streaming.registry.bundle import HeldBackFigures
from streaming.registry.registry import Registry

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model that was broadcast to the executors; `backbone` is its `backbone.backbone_id`."""

    version: str
    backbone: str
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
        self._former: ServedModel | None = None
        self.refused = False

    def current(self) -> ServedModel:
        """The current model, or the last good one if CURRENT or its bundle cannot be used.

        Raises:
            ModelError: the current model cannot be used, and there was no good one before.
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
        BackboneRunner(recipe.backbone)  # a backbone that does not run must not reach a worker
        _ = recipe.content_hash  # once here, instead of once per worker
        broadcast = self._context.broadcast(recipe)
        if self._former:
            self._former.recipe.destroy()  # with its file in Spark's temporary folder
        self._former = self._served  # in which a micro-batch may still be running
        self._served = ServedModel(version, backbone_id(recipe.backbone), broadcast, model.manifest.held_back)
        if self._former:
            _logger.info("model %s replaces %s", version, self._former.version)
            self._former.recipe.unpersist()
