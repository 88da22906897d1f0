"""The plan of a fit: its places, checked, and the model that it adds to."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from batch_fit.backbone import describe_weights
from batch_fit.classes import PICTURE
from batch_fit.fitted import options_of_names
from batch_fit.forgotten import warn_of
from batch_fit.sample import read_identities
from conf.answers import command
from conf.aws.connection import S3Connection
from conf.errors import AppError, BundleError, SettingsError
from conf.settings import FitSettings, Settings, StreamSettings
from conf.uris import resolve
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.identities import NO_IDENTITIES, Identities
from streaming.storage.locations import check_outside, open_folder

_CURRENT = "current"
"""The value of `fit.from_version` that stands for the current model."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitPlan:
    """The places and the base of a fit, and where its features come from.

    Attributes:
        source: canonical path of the input, or of the output whose embeddings are read.
        models: the registry.
        save_to: canonical path for the features, if they are saved.
        connection: to S3.
        base: the model that is added to.
        seen: identities of the pictures in the base.
        holdout: what a classifier is measured on; None if none is fitted.
    """

    source: str
    models: Folder
    save_to: str | None
    connection: S3Connection
    base: bundle.Bundle | None
    seen: Identities = field(repr=False)
    holdout: str | None

    @property
    def classifies(self) -> bool:
        """Whether a classifier is fitted."""
        return self.holdout is not None


def plan_fit(settings: Settings) -> FitPlan:
    """Check the places, open the base, and decide whether to classify.

    Raises:
        AppError: the settings do not go together, or the base cannot be used.
    """
    assert settings.models is not None
    options = settings.fit
    connection = S3Connection.of(settings.s3)
    source = options.embeddings or settings.input
    if source is None:
        raise SettingsError("fit: give --input PICTURES, or --embeddings OUTPUT")
    if options.embeddings and settings.input:  # which a file of settings may name for the stream
        _logger.info("the pictures are those of the embeddings %s, and not those of the input", options.embeddings)
    source, models = resolve(source), open_folder(settings.models, connection)
    save_to = resolve(options.save_features) if options.save_features else None
    _check_places(source, models, save_to, connection)
    if options.embeddings and save_to:
        raise SettingsError("fit.save_features: the embeddings are saved already; leave it out")
    if options.classify and options.from_version and not options.embeddings:
        raise SettingsError(
            "fit.classify: a classifier needs all pictures, and a fit that adds to a model reads new ones only; "
            "leave out --from, or fit on --embeddings"
        )
    _check_effect(options, settings.stream)
    models.remove_leftovers()
    registry = Registry(models)
    registry.remove_incomplete(datetime.now(UTC))
    base = _open_base(registry, models, options.from_version)
    if base:
        check_side(options.side, base)
    holdout = _choose_holdout(options, models, base)
    return FitPlan(source, models, save_to, connection, base, read_identities(base) if base else NO_IDENTITIES, holdout)


def _check_effect(options: FitSettings, stream: StreamSettings) -> None:
    """Refuse settings that would be ignored."""
    for name in ("since", "until", "backbone"):
        if getattr(options, name) and not options.embeddings:
            raise SettingsError(f"fit.{name}: it chooses among embeddings; leave it out, or give --embeddings OUTPUT")
    if options.backbone and options.from_version:
        raise SettingsError("fit.backbone: it is that of the model of --from; leave out one of them")
    if options.embeddings and options_of_names(stream):
        _logger.warning(
            "stream.ignore and stream.include say which pictures a stream takes in, and not which embeddings are "
            "fitted: all are"
        )


def _open_base(registry: Registry, models: Folder, version: str | None) -> bundle.Bundle | None:
    if version is None:
        return None
    base = registry.open(registry.current() if version == _CURRENT else version)
    if bundle.IDENTITIES not in base.manifest.files and models.exists(f"{base.version}/{bundle.IDENTITIES}"):
        forget = command("streaming", "forget", "--output", "OUTPUT")
        raise BundleError(
            f"model {base.version} cannot be added to now: forget is changing its {bundle.IDENTITIES}, or was killed "
            f"while it did; if none is running, {forget} finishes it"
        )
    warn_of(base)
    return base


def check_side(side: int | None, model: bundle.Bundle) -> None:
    """Refuse a setting `fit.side` that contradicts the model whose backbone a fit takes over.

    Raises:
        SettingsError: it does.
    """
    own = model.manifest.side
    if side not in (None, own):
        raise SettingsError(
            f"fit.side: {side} is given, and this fit has the backbone of {model.version}, which sees {own} pixels; "
            "leave out --side; another side takes a fit on pictures without --from"
        )


def warn_of_weights(options: FitSettings, model: bundle.Bundle) -> None:
    """Warn if the setting `fit.weights` is given, and other than those of the model whose backbone a fit takes over.

    It is not refused: a file of settings, or conf.emr, may give the weights to each fit.
    """
    if "weights" not in options.model_fields_set:
        return
    weights = options.weights
    with suppress(AppError):  # of a file that cannot be read, and need not be
        weights = describe_weights(options.weights)
    if weights != model.manifest.weights:
        _logger.warning(
            "fit.weights: %s is ignored, as this fit has the backbone of %s, with the weights %s; other weights take "
            "a fit on pictures without --from",
            weights,
            model.version,
            model.manifest.weights,
        )


def _choose_holdout(options: FitSettings, models: Folder, base: bundle.Bundle | None) -> str | None:
    """The setting `fit.holdout` by which a classifier is measured; None if none is fitted.

    A fit on embeddings that is not told whether to classify does as the model before it: a scheduled one must not take
    the labels away.

    Raises:
        SettingsError: there is nothing to measure.
    """
    former = base.manifest if base else current_manifest(options, models)
    figures = former.classifier if former else None
    classifies = options.classify
    if classifies is None:
        classifies = figures is not None and options.embeddings is not None
        if figures and not classifies:
            _logger.warning(
                "model %s has a classifier, and this one will have none: give --classify without --from, or fit on "
                "--embeddings",
                former.version if former else "",
            )
    if classifies:
        return options.holdout or (figures.holdout if figures else PICTURE)
    if options.holdout:
        raise SettingsError(
            f"fit.holdout: a classifier is measured by {options.holdout}, and this fit has none; "
            "give --classify, or leave out --holdout"
        )
    return None


def current_manifest(options: FitSettings, models: Folder) -> bundle.BundleManifest | None:
    """The manifest of the current model, whose files need not be sound; None if there is no current model.

    A fit on pictures goes on without one that cannot be read: it takes nothing from it, and may replace it.
    """
    version = Registry(models).current_or_none()
    try:
        return bundle.read_bundle_manifest(models, version) if version else None
    except BundleError:
        if options.embeddings:
            raise
        return None


def _check_places(source: str, models: Folder, save_to: str | None, connection: S3Connection) -> None:
    check_outside(source, {"models": models.root, "fit.save_features": save_to})
    if save_to and next(open_folder(save_to, connection).names(""), None):
        raise SettingsError(f"fit.save_features: {save_to} holds files already; name a new folder")
