"""Runs the queries of a job: wires the session, the models, the executors and the micro-batches together.

Only this half of the engine imports PySpark: a replay that finds nothing new ends without it, and others import it
while Java starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from pyspark.sql import SparkSession

from conf.answers import command
from conf.interrupts import draining
from conf.spark.ticks import Ticks
from streaming.discovery.by_listing import DiscoveryThread
from streaming.engine.drift import WINDOW, DriftMonitor
from streaming.engine.executors import Executors
from streaming.engine.loop import EpochLoop, Following
from streaming.engine.microbatch import MicroBatches, Reports
from streaming.engine.opening import Opened
from streaming.engine.prefetch import Prefetch
from streaming.engine.serving import ModelSource, ServedModel
from streaming.output.batch_report import BatchReport
from streaming.output.places import StreamPlaces
from streaming.output.tables import Tables
from streaming.registry.registry import Registry

_logger = logging.getLogger(__name__)


class Queries:
    """The queries of a job, one after another, on one session."""

    def __init__(
        self, opened: Opened, spark: SparkSession, prefetch: Prefetch, on_report: Callable[[BatchReport], None]
    ) -> None:
        self._opened = opened
        self._spark = spark
        self._prefetch = prefetch
        self._reports = Reports(on_report)
        self._drift = DriftMonitor(opened.settings.stream.drift_threshold, _refit(opened))

    def drain(self) -> None:
        """Featurize all manifests, unless told to stop."""
        self._run(None)

    def follow(self, discovery: DiscoveryThread, on_look: Callable[[bool], None]) -> None:
        """Featurize what the discovery appends until told to stop.

        Args:
            discovery: appends manifests.
            on_look: told several times a second whether a micro-batch is running.
        """
        self._run(Following(discovery, on_look))

    def recall(self, model: ServedModel) -> None:
        """Go on from the drift of the latest rows."""
        errors = Tables(self._opened.places.output).latest_errors(model.version, WINDOW)
        self._drift.recall(model.version, model.held_back, errors)

    def warm_up(self, manifests: Sequence[str]) -> None:
        """Begin with the first of the manifests or, if there is none, wait until the workers have loaded the model."""
        self._prefetch.begin(min(manifests, default=None))

    def _run(self, following: Following | None) -> None:
        """Featurize, each micro-batch with the current model."""
        opened = self._opened
        limit = opened.settings.stream.epoch_manifests
        loop = EpochLoop(opened.tenure, opened.epochs, opened.log, opened.inbox, limit, self._new_batches)
        with draining(opened.tenure.drain):
            loop.run(self._spark, following)

    def _new_batches(self) -> MicroBatches:
        opened = self._opened
        return MicroBatches(opened.tenure, opened.log, opened.epochs, self._prefetch, self._drift, self._reports)


@contextmanager
def open_queries(
    opened: Opened,
    spark: SparkSession,
    registry: Registry,
    manifests: Sequence[str],
    on_report: Callable[[BatchReport], None],
    ticks: Ticks,
) -> Iterator[Queries]:
    """The queries on a session, whose workers begin in this context.

    Args:
        opened: the output.
        spark: the session.
        registry: of the models.
        manifests: those that are not decided yet.
        on_report: called after each micro-batch.
        ticks: count the pictures as they are done.

    Raises:
        ModelError: the current model cannot be used; this must end the program now, not at a picture.
    """
    models = ModelSource(spark.sparkContext, registry, opened.settings)
    with closing(Prefetch(Executors(spark, ticks), models, opened.log)) as prefetch:
        queries = Queries(opened, spark, prefetch, on_report)
        model = models.current()
        _logger.info("loading model %s in the workers", model.version)
        queries.warm_up(manifests)
        # While the workers are busy:
        _warn_of_change(opened.places, model.version)
        queries.recall(model)
        yield queries


def _warn_of_change(places: StreamPlaces, version: str) -> None:
    """Warn if the rows that are there already are of another model."""
    if (used := Tables(places.output).latest_model()) and used != version:
        _logger.warning(
            "the output holds features of model %s, the new rows are of %s: compare rows of one model_version only",
            used,
            version,
        )


def _refit(opened: Opened) -> str:
    """The command that fits another model."""
    places = opened.places
    kept = opened.settings.stream.embeddings == "keep"
    source = ("--embeddings", places.output.root) if kept else ("--input", places.input.root)
    return command("batch_fit", "fit", *source, "--models", places.models.root)
