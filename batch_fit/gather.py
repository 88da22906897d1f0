"""Gathers the features of a fit: from pictures, or from the embeddings that a stream has kept of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pyspark.sql import DataFrame, SparkSession

from batch_fit.backbone import Backbone, load_backbone
from batch_fit.classes import Classes, Holdout
from batch_fit.embeddings import Embeddings, RowFilter
from batch_fit.featurize import Done, Kept, featurize
from batch_fit.folding import Featurized, paths_of
from batch_fit.pca import check_k
from batch_fit.plan import FitPlan, check_side, current_manifest, warn_of_weights
from batch_fit.sample import choose, warn_of_share
from batch_fit.sides import BothSides, look
from batch_fit.stages import Stages
from conf.errors import BundleError, InputError, ModelError
from conf.plural import plural
from conf.settings import Settings
from conf.spark.progress import Progress
from conf.spark.ticks import ticking
from streaming.features.featurizer import Recipe
from streaming.features.imaging import DEFAULT_SIDE
from streaming.lease.denylist import Denylist, read_entries
from streaming.output.embeddings import EMBEDDINGS_TABLE, embeddings_files, files_without_embeddings
from streaming.output.lineage import Derivative, record
from streaming.output.places import open_output
from streaming.registry.bundle import Bundle
from streaming.registry.registry import Registry
from streaming.storage.identities import NO_IDENTITIES
from streaming.storage.names import Names

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gathered:
    """The features of the pictures that are not in the base.

    Attributes:
        featurized: the outcome of each picture.
        backbone: of these features.
        sights: of a sample, for a comparison with 224 pixels; None if that is their side, or they are too few.
        rows: path and features of all pictures of a classifier, for a second pass; None if there is none.
        paths: of those of them that have features.
        saved_to: canonical path of the saved features; None if none are saved.
    """

    featurized: Featurized
    backbone: Backbone
    sights: BothSides | None = None
    rows: DataFrame | None = None
    paths: Sequence[str] = field(default=(), repr=False)
    saved_to: str | None = None


Gather = Callable[[SparkSession, Progress], Gathered]
"""The part of gathering that needs Spark."""


def prepare_gathering(settings: Settings, plan: FitPlan, stages: Stages) -> Gather:
    """Do the part that needs no Spark, and so can fail before it is started.

    Raises:
        AppError: there are no features to gather.
    """
    if settings.fit.embeddings:
        return _from_embeddings(settings, plan, stages)
    return _from_pictures(settings, plan, stages)


def _from_pictures(settings: Settings, plan: FitPlan, stages: Stages) -> Gather:
    with stages("listing the pictures"):
        names = Names.of(settings.stream)
        pictures = choose(plan.source, settings.fit.limit, plan.connection, Denylist.load(plan.models), names)
        identities = [picture.identity for picture in pictures]
        seen = plan.seen.has(identities)
        new = [picture for picture, is_seen in zip(pictures, seen, strict=True) if not is_seen]
        _logger.info(
            "%s in %s, %d of them new to the statistics", plural(len(pictures), "picture"), plan.source, len(new)
        )
        warn_of_share(plan.seen, max(identities), settings.fit.limit)
    check_k(settings.fit.k, _count_together(plan, len(new)))
    if plan.holdout:
        _check_classes([picture.path for picture in pictures], plan.source, plan.holdout)
    with stages("loading the backbone"):
        options = settings.fit
        if plan.base:
            warn_of_weights(options, plan.base)
        backbone = Backbone.of(plan.base) if plan.base else load_backbone(options.weights, options.side)

    def gather(spark: SparkSession, progress: Progress) -> Gathered:
        if not new:
            if plan.save_to:
                _logger.info("no features are saved in %s, as no picture is new", plan.save_to)
            return Gathered(Featurized.nothing(), backbone)
        recipe, sights = Recipe.of(backbone.flatbuffer, None, settings), None
        kept = Kept(plan.save_to, plan.classifies)
        with stages("featurizing and folding"), ticking(settings.spark) as ticks:
            done = Done(spark.sparkContext.accumulator(0), ticks)
            with progress(len(new), "pictures", lambda: done.count(len(new))):
                featurized, rows = featurize(spark, new, recipe, kept, done)
        if backbone.side != DEFAULT_SIDE:
            with stages(f"looking at a sample at {DEFAULT_SIDE} pixels, too"):
                sights = look(spark, new, featurized, recipe)
        paths = [*paths_of(featurized.accepted)] if rows is not None else ()
        return Gathered(featurized, backbone, sights, rows, paths, plan.save_to)

    return gather


def _count_together(plan: FitPlan, new: int) -> int:
    """The number of pictures in the statistics, if all new ones can be used."""
    return new + (plan.base.manifest.pictures if plan.base else 0)


def _check_classes(paths: list[str], source: str, holdout: str) -> None:
    """Refuse pictures to which no classifier can be fitted, before they are read."""
    Holdout.of(paths, Classes.of(paths, source), holdout, lambda _: False)


def _from_embeddings(settings: Settings, plan: FitPlan, stages: Stages) -> Gather:
    options = settings.fit
    output = open_output(settings.model_copy(update={"output": options.embeddings}), plan.connection)
    # First: a `forget` that looks for models of these pictures must know of the registry.
    record(output, Derivative("models", plan.models.root))
    denylist = Denylist([*read_entries(output), *read_entries(plan.models)])
    backbone = plan.base.manifest.backbone if plan.base else options.backbone
    files = embeddings_files(output, options.since, options.until)
    if not files:
        raise InputError(
            f"{output.root} has no embeddings in these days; run and replay keep them with stream.embeddings: keep"
        )
    if missing := files_without_embeddings(output, files, options.since, options.until):
        _logger.warning(
            "left out: the pictures of %s of the table features without embeddings (older, written with "
            "stream.embeddings: drop, or lost)",
            plural(missing, "file"),
        )
    table = Embeddings(output.root, plan.connection, files, RowFilter(denylist, backbone, seen=plan.seen))
    current = None if backbone else current_manifest(options, plan.models)

    def gather(spark: SparkSession, progress: Progress) -> Gathered:
        with stages("surveying the embeddings"):
            preferred = current.backbone if current else None
            chosen, identities = table.choose(spark, options.limit, progress, preferred)
            _logger.info(
                "new to the statistics: %s in %s", plural(len(identities), "picture"), output.path(EMBEDDINGS_TABLE)
            )
            assert chosen.wanted.last is not None
            warn_of_share(plan.seen, chosen.wanted.last, options.limit)
            owner = plan.base or _owner(Registry(plan.models), chosen.wanted.backbone)
            check_side(options.side, owner)
            warn_of_weights(options, owner)
            check_k(options.k, _count_together(plan, len(identities)))
        with stages("reading and folding the embeddings"):
            featurized = chosen.fold(spark, identities, progress)
        if not plan.classifies:
            return Gathered(featurized, Backbone.of(owner))
        # On all pictures, those of the base among them.
        both = replace(chosen, wanted=replace(chosen.wanted, seen=NO_IDENTITIES))
        paths = both.paths(spark) if plan.base else [*paths_of(featurized.accepted)]
        rows = both.rows(spark, len(paths))
        return Gathered(featurized, Backbone.of(owner), rows=rows, paths=paths)

    return gather


def _owner(registry: Registry, backbone: str | None) -> Bundle:
    """The newest model of a backbone that can be used; a warning names damaged ones.

    Raises:
        ModelError: there is none.
    """
    for manifest in reversed(registry.versions()):
        if manifest.backbone == backbone:
            try:
                return registry.open(manifest.version)
            except BundleError as error:
                _logger.warning("%s; prune or delete it; looking for another model with its backbone", error)
    raise ModelError(
        f"no usable model of the registry has the backbone {backbone} of these embeddings; give --models the registry "
        "whose models the stream has used, or copy one of them here"
    )
