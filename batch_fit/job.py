"""The fit: pictures, features, statistics, PCA, bundle, wired together.

It owns what happens in which order; it must not know how any part does its work.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from pyspark.sql import SparkSession

from batch_fit import forgotten
from batch_fit.backbone import load_backbone
from batch_fit.comparison import Contender
from batch_fit.describe import describe
from batch_fit.featurize import Featurized, featurize
from batch_fit.held_back import Evidence
from batch_fit.pca import fit_pca
from batch_fit.pipeline import build_pipeline
from batch_fit.promotion import compare_with_current, promote_if_asked
from batch_fit.report import render
from batch_fit.sample import choose, read_identities, write_identities
from conf.errors import SettingsError
from conf.progress import Progress
from conf.s3 import S3Connection
from conf.session import start_session
from conf.settings import Settings
from streaming.features import bundle
from streaming.features.denylist import Denylist
from streaming.features.featurizer import Recipe
from streaming.features.projection import Projection
from streaming.features.registry import Registry
from streaming.features.storage import check_outside, is_on_s3, open_folder, resolve, spark_uri
from streaming.features.stored import Folder, StoredPicture, identity_of

_logger = logging.getLogger(__name__)

_SPARK_PROPERTIES = {
    # A batch of pictures holds its 1280 features in memory until it is folded.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "250",
}


@dataclass(frozen=True)
class Fitted:
    """What a fit made.

    Attributes:
        manifest: of the new bundle.
        report: canonical path of the HTML page.
        promoted: whether it is the current model now.
        rejected: pictures that could not be used, by reason.
    """

    manifest: bundle.BundleManifest
    report: str
    promoted: bool
    rejected: Counter[str]


class _Stages:
    """How long each stage took, for the report and the log."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
        _logger.debug("%s took %.1fs", name, self.seconds[name])


def fit(settings: Settings, progress: Progress) -> Fitted:
    """Fit a model on the pictures of the input and put it into the registry.

    Raises:
        AppError: anything that keeps a model from being made. What was written of it is no model, and goes with the
            next fit, or the next `forget`, when it is an hour old.
    """
    assert settings.input is not None
    assert settings.models is not None
    connection = S3Connection.of(settings.s3)
    source, models = resolve(settings.input), open_folder(settings.models, connection)
    save_to = resolve(settings.fit.save_features) if settings.fit.save_features else None
    _check_places(source, models, save_to, connection)
    registry, stages = Registry(models), _Stages()
    models.remove_leftovers()
    registry.remove_incomplete(datetime.now(UTC))
    base = _open_base(registry, settings.fit.from_version)
    with stages("list the pictures"):
        pictures = choose(source, settings.fit.limit, connection, Denylist.load(models))
        seen = read_identities(base) if base else set()
        new = [picture for picture in pictures if picture.identity not in seen]
        _logger.info("%d pictures in %s, %d of them new to the statistics", len(pictures), source, len(new))
    with stages("load the backbone"):
        backbone, weights = _backbone(settings.fit.weights, base)
    with stages("start Spark"):
        spark = start_session("picture-features fit", settings, _spark_properties(connection, models.root, save_to))
    try:
        with stages("featurize and fold"):
            featurized = _featurize(spark, settings, new, backbone, save_to, progress)
        with stages("fit scaler and PCA"):
            evidence = featurized.evidence
            if base:
                evidence = Evidence.of_bundle(base).merge(evidence)
            projection = fit_pca(evidence.statistics, settings.fit.k, settings.fit.variance_target)
        created_at = datetime.now(UTC)
        version = bundle.new_version(created_at, backbone, projection)
        with stages("save the model"):
            build_pipeline(spark, projection).save(spark_uri(models.path(f"{version}/{bundle.PIPELINE}")))
            identities = seen | {identity_of(path) for path in featurized.accepted.column("path").to_pylist()}
            _save(models, version, backbone, projection, evidence, identities)
    finally:
        spark.stop()
    with stages("measure on pictures held back"):
        held_back = evidence.figures(projection.k)
        comparison = compare_with_current(registry, Contender(version, weights, projection.k, evidence, identities))
    rejected = Counter(featurized.rejected.column("reason").to_pylist())
    manifest = bundle.BundleManifest(
        version=version,
        created_at=created_at,
        weights=weights,
        k=projection.k,
        variance_kept=float(projection.explained_variance[: projection.k].sum()),
        pictures=evidence.statistics.count,
        quarantined=rejected.total(),
        input=source,
        limit=settings.fit.limit,
        from_version=settings.fit.from_version,
        held_back=held_back,
        comparison=comparison,
        files={},
        saved_features=save_to,
        forgotten=base.manifest.forgotten if base else 0,
    )
    report = describe(manifest, projection, featurized, stages.seconds, settings.fit.variance_target)
    models.create(f"{version}/{bundle.REPORT}", render(report).encode())
    read = featurized.outcomes.column("path").to_pylist()
    forgotten.check_none(read, base, models, version, save_to, connection)
    sealed = _seal(models, manifest)
    forgotten.check_none(read, base, models, version, save_to, connection)
    promoted = promote_if_asked(registry, sealed, settings.fit.promote)
    return Fitted(sealed, models.path(f"{version}/{bundle.REPORT}"), promoted, rejected)


def _save(
    models: Folder,
    version: str,
    backbone: bytes,
    projection: Projection,
    evidence: Evidence,
    identities: Collection[bytes],
) -> None:
    models.create(f"{version}/{bundle.BACKBONE}", backbone)
    models.create(f"{version}/{bundle.PROJECTION}", projection.to_bytes())
    models.create(f"{version}/{bundle.STATISTICS}", evidence.others.to_bytes())
    models.create(f"{version}/{bundle.HELD_BACK}", evidence.held_back.to_bytes())
    models.create(f"{version}/{bundle.PICTURES}", write_identities(identities))


def _seal(models: Folder, manifest: bundle.BundleManifest) -> bundle.BundleManifest:
    sealed = manifest.model_copy(update={"files": bundle.hash_files(models, manifest.version)})
    bundle.seal(models, manifest.version, sealed)
    return sealed


def _open_base(registry: Registry, version: str | None) -> bundle.Bundle | None:
    if version is None:
        return None
    base = registry.open(version)
    forgotten.warn_of(base)
    return base


def _spark_properties(connection: S3Connection, *places: str | None) -> dict[str, str]:
    on_s3 = any(place and is_on_s3(place) for place in places)
    return _SPARK_PROPERTIES | (connection.spark_properties() if on_s3 else {})


def _check_places(source: str, models: Folder, save_to: str | None, connection: S3Connection) -> None:
    check_outside(source, {"models": models.root, "fit.save_features": save_to})
    if save_to and next(open_folder(save_to, connection).names(""), None):
        raise SettingsError(f"fit.save_features: {save_to} holds files already; name a new folder")


def _backbone(weights: str, base: bundle.Bundle | None) -> tuple[bytes, str]:
    """The flatbuffer, and the name of its weights; those of the model that the fit adds to, if there is one."""
    if base:
        return base.file(bundle.BACKBONE), base.manifest.weights
    loaded = load_backbone(weights)
    return loaded.flatbuffer, loaded.weights


def _featurize(
    spark: SparkSession,
    settings: Settings,
    pictures: list[StoredPicture],
    backbone: bytes,
    save_to: str | None,
    progress: Progress,
) -> Featurized:
    if not pictures:
        return Featurized.nothing()
    recipe = Recipe.of(backbone, None, settings)
    done = spark.sparkContext.accumulator(0)
    with progress(len(pictures), "pictures", done):
        return featurize(spark, pictures, recipe, save_to, done)
