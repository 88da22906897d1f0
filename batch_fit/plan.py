"""The plan of a fit: its places, checked, and the model that it adds to."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime

from batch_fit.forgotten import warn_of
from batch_fit.sample import read_identities
from conf.aws.connection import S3Connection
from conf.errors import SettingsError
from conf.settings import Settings
from conf.uris import resolve
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import check_outside, open_folder

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The places and the base of a fit, and where its features come from.

    Attributes:
        source: canonical path of the input, or of the output whose embeddings are read.
        models: the registry.
        save_to: canonical path for the features, if they are saved.
        connection: to S3.
        base: the model that is added to.
        seen: identities of the pictures in the base.
    """

    source: str
    models: Folder
    save_to: str | None
    connection: S3Connection
    base: bundle.Bundle | None
    seen: frozenset[bytes] = field(repr=False)


def make_plan(settings: Settings) -> Plan:
    """Check the places, and open the base."""
    assert settings.models is not None
    options = settings.fit
    connection = S3Connection.of(settings.s3)
    source = options.embeddings or settings.input
    if source is None:
        raise SettingsError("fit: give --input PICTURES, or --embeddings OUTPUT")
    source, models = resolve(source), open_folder(settings.models, connection)
    save_to = resolve(options.save_features) if options.save_features else None
    _check_places(source, models, save_to, connection)
    if options.embeddings and save_to:
        raise SettingsError("fit.save_features: the embeddings are saved already; leave it out")
    if options.classify and options.from_version:
        raise SettingsError(
            "fit.classify: a classifier needs all pictures, and a fit that adds to a model reads new ones only; "
            "leave out --from"
        )
    models.remove_leftovers()
    registry = Registry(models)
    registry.remove_incomplete(datetime.now(UTC))
    base = _open_base(registry, options.from_version)
    return Plan(source, models, save_to, connection, base, frozenset(read_identities(base) if base else ()))


def _open_base(registry: Registry, version: str | None) -> bundle.Bundle | None:
    if version is None:
        return None
    base = registry.open(version)
    warn_of(base)
    if bundle.CLASSIFIER in base.manifest.files:
        _logger.warning("%s has a classifier, and a fit that adds to it has none: fit all with --classify", version)
    return base


def _check_places(source: str, models: Folder, save_to: str | None, connection: S3Connection) -> None:
    check_outside(source, {"models": models.root, "fit.save_features": save_to})
    if save_to and next(open_folder(save_to, connection).names(""), None):
        raise SettingsError(f"fit.save_features: {save_to} holds files already; name a new folder")
