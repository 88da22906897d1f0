"""The fit in four steps: plan (check the places), learn (gather features, fit), save the files, publish the bundle."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice

from pyspark.sql import SparkSession

from batch_fit.classes import Classes, shared_folder
from batch_fit.classification import Classification, classify
from batch_fit.comparison import Contender, compare_with_current, promote_if_asked
from batch_fit.featurize import unfinished
from batch_fit.fitted import Fitted, options_of_names
from batch_fit.folding import Featurized, paths_of
from batch_fit.forgotten import Draft, delete_if_forgotten
from batch_fit.gather import Gathered, prepare_gathering
from batch_fit.held_back import Evidence
from batch_fit.pca import fit_pca
from batch_fit.pipeline import build_pipeline
from batch_fit.plan import FitPlan, plan_fit
from batch_fit.report.describe import describe_fit, describe_worst
from batch_fit.report.report import render, with_thumbnails
from batch_fit.sample import write_identities
from batch_fit.sides import SidesCompared, compare_sides
from batch_fit.stages import Stages
from conf.answers import command
from conf.aws.connection import S3Connection
from conf.backoff import pauses
from conf.errors import InputError, StorageError, TransientError
from conf.settings import Settings
from conf.spark.progress import Progress
from conf.spark.session import spark_session
from conf.spark.worker_daemon import preloading
from streaming.features.backbone import backbone_id
from streaming.features.projection import Projection
from streaming.features.workers import MODULES
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder, identity_of
from streaming.storage.identities import Identities
from streaming.storage.locations import is_on_s3, open_folder, spark_uri

_logger = logging.getLogger(__name__)

_TRIES = 20
"""Within a quarter of an hour; a failing store is waited for, or the whole fit would be repeated."""

_SPARK_PROPERTIES = {
    # A batch of pictures holds its 1280 features in memory until it is folded.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "250",
}
_OF_CLASSIFIER = {
    # Spark's Java multiplies matrices by the vector API, which is far slower than loops without the second compiler.
    # conf.spark.session leaves that out, as nothing else needs it.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=4",
}


@dataclass(frozen=True)
class _Learned:
    """The features and the fitted projection.

    Attributes:
        gathered: the features.
        evidence: the statistics, with those of the base.
        projection: fitted to them.
        classification: on the projected features, if it is asked for.
        sides: a comparison with 224 pixels, where there is something to compare.
    """

    gathered: Gathered
    evidence: Evidence
    projection: Projection
    classification: Classification | None
    sides: SidesCompared | None


@dataclass(frozen=True)
class _Saved:
    """A model whose files are written; it becomes a bundle once it is sealed."""

    draft: Draft
    created_at: datetime
    identities: Identities


def fit(settings: Settings, progress: Progress) -> Fitted:
    """Fit a model on the pictures of the input, or on the embeddings of an output, and put it into the registry.

    Raises:
        AppError: the model cannot be made. Files that were written are not a bundle, and are deleted by the next fit
            or `forget` after an hour.
    """
    stages = Stages()
    _delete_unfinished(settings)
    plan = plan_fit(settings)
    gather = prepare_gathering(settings, plan, stages)
    with _owning_features(settings):
        with ExitStack() as session:
            with stages.timed("starting Spark"):
                spark = session.enter_context(spark_session("picture-features fit", settings, _spark_properties(plan)))
            learned = _learn(settings, plan, gather(spark, progress), stages)
            saved = _save(spark, plan, learned, stages)
        sealed = _complete(settings, plan, learned, saved, stages)
    return _publish(settings, plan, learned, saved, sealed)


@contextmanager
def _owning_features(settings: Settings) -> Iterator[None]:
    """Delete saved features that come to no model, by which `forget` would find them, and make room for another try."""
    try:
        yield
    except BaseException:
        with suppress(StorageError):  # the next try deletes them
            _delete_unfinished(settings)
        raise
    unfinished.clear()


def _delete_unfinished(settings: Settings) -> None:
    for features in tuple(unfinished):
        open_folder(features, S3Connection.of(settings.s3)).delete_tree("")
        unfinished.discard(features)


def _learn(settings: Settings, plan: FitPlan, gathered: Gathered, stages: Stages) -> _Learned:
    """Fit the projection to the features and to those of the base, and the classifier."""
    with stages("fitting scaler and PCA"):
        evidence = gathered.featurized.evidence
        if plan.base:
            evidence = Evidence.of_bundle(plan.base).merge(evidence)
        try:
            projection = fit_pca(evidence.statistics, settings.fit.k, settings.fit.variance_target)
        except InputError as error:
            raise InputError(f"{error}{_explain_rejected(gathered.featurized)}") from error
    classification = sides = None
    if gathered.rows is not None and plan.holdout:
        with stages("fitting the classifier"):
            paths = list(gathered.paths)
            source = shared_folder(paths) if settings.fit.embeddings else plan.source
            classes = Classes.of(paths, source)
            classification = classify(gathered.rows, paths, classes, plan.holdout, projection, evidence)
    if gathered.sights:
        with stages("comparing with 224 pixels"):
            kept = float(projection.explained_variance[: projection.k].sum())
            sides = compare_sides(gathered.sights, settings.fit.variance_target or kept)
    return _Learned(gathered, evidence, projection, classification, sides)


def _save(spark: SparkSession, plan: FitPlan, learned: _Learned, stages: Stages) -> _Saved:
    """Write the model's files, except the report and the manifest."""
    created_at, models = datetime.now(UTC), plan.models
    classifier = learned.classification.classifier if learned.classification else None
    version = bundle.new_version(created_at, learned.gathered.backbone.flatbuffer, learned.projection, classifier)
    identities = plan.seen | Identities.of(map(identity_of, paths_of(learned.gathered.featurized.accepted)))
    with stages("saving the model"):
        pipeline = build_pipeline(spark, learned.projection, classifier)
        pipeline.save(spark_uri(models.path(f"{version}/{bundle.PIPELINE}")))
        for name, data in {
            bundle.BACKBONE: learned.gathered.backbone.flatbuffer,
            bundle.PROJECTION: learned.projection.to_bytes(),
            bundle.STATISTICS: learned.evidence.others.to_bytes(),
            bundle.HELD_BACK: learned.evidence.held_back.to_bytes(),
            bundle.IDENTITIES: write_identities(identities),
            **({bundle.CLASSIFIER: classifier.to_bytes()} if classifier else {}),
        }.items():
            models.create(f"{version}/{name}", data)
    saved_to = learned.gathered.saved_to
    features = open_folder(saved_to, plan.connection) if saved_to else None
    return _Saved(Draft(models, version, features), created_at, identities)


def _complete(
    settings: Settings, plan: FitPlan, learned: _Learned, saved: _Saved, stages: Stages
) -> bundle.BundleManifest:
    """Measure the model, write the report, and seal it."""
    registry, models, projection = Registry(plan.models), plan.models, learned.projection
    backbone = learned.gathered.backbone
    version = saved.draft.version
    with stages("measuring on held-out pictures"):
        held_back = learned.evidence.figures(projection.k)
        contender = Contender(
            version,
            backbone_id(backbone.flatbuffer),
            backbone.weights,
            backbone.side,
            projection.k,
            learned.evidence,
            saved.identities,
            learned.classification is not None or settings.fit.classify is False,
        )
        comparison = compare_with_current(registry, contender)
        worst = describe_worst(learned.evidence, learned.gathered.featurized.accepted, projection.k)
    manifest = bundle.BundleManifest(
        version=version,
        created_at=saved.created_at,
        weights=backbone.weights,
        side=backbone.side,
        k=projection.k,
        variance_kept=float(projection.explained_variance[: projection.k].sum()),
        pictures=learned.evidence.statistics.count,
        quarantined=len(learned.gathered.featurized.rejected),
        input=plan.source,
        limit=settings.fit.limit,
        from_version=plan.base.version if plan.base else None,
        held_back=held_back,
        comparison=comparison,
        classifier=learned.classification.figures if learned.classification else None,
        files={},
        saved_features=learned.gathered.saved_to,
        forgotten=plan.base.manifest.forgotten if plan.base else 0,
    )
    report = describe_fit(plan, manifest, projection, learned.gathered.featurized, learned.classification, settings.fit)
    report = replace(report, worst=worst or report.worst)
    if settings.fit.thumbnails:
        with stages("reading pictures for the report"):
            report = with_thumbnails(report, settings)
    report = replace(report, sides=learned.sides, seconds=stages.seconds, names=options_of_names(settings.stream))
    models.create(f"{version}/{bundle.REPORT}", render(report).encode())
    delete_if_forgotten(saved.draft, paths_of(learned.gathered.featurized.outcomes), plan.base)
    return _seal(models, manifest)


def _publish(
    settings: Settings, plan: FitPlan, learned: _Learned, saved: _Saved, sealed: bundle.BundleManifest
) -> Fitted:
    """Make the model the current one if that is asked for.

    Raises:
        InputError: pictures of it had to be forgotten meanwhile.
        StorageError: it is saved, and cannot be made the current one.
    """
    featurized = learned.gathered.featurized
    _check_forgotten(saved.draft, featurized, plan)
    try:
        promoted = promote_if_asked(Registry(plan.models), sealed, settings.fit.promote)
    except StorageError as error:  # a TransientError would have the whole fit repeated
        promote = command("batch_fit", "models", "promote", sealed.version, "--models", plan.models.root)
        raise StorageError(
            f"model {sealed.version} is saved, and may not be current: {error}; {promote} makes it current"
        ) from error
    return Fitted(
        models=plan.models.root,
        manifest=sealed,
        report=plan.models.path(f"{sealed.version}/{bundle.REPORT}"),
        promoted=promoted,
        rejected=_rejected(featurized),
        on_embeddings=settings.fit.embeddings is not None,
        sides=learned.sides,
        names=options_of_names(settings.stream),
    )


def _check_forgotten(draft: Draft, featurized: Featurized, plan: FitPlan) -> None:
    """`delete_if_forgotten` of a sealed model, again while the store fails: it must not be left out."""
    for rest in islice(pauses(), _TRIES):
        try:
            delete_if_forgotten(draft, paths_of(featurized.outcomes), plan.base)
        except TransientError as error:
            _logger.warning("%s; nothing is lost, trying again in %.0fs", error, rest)
            time.sleep(rest)
        else:
            return
    delete_if_forgotten(draft, paths_of(featurized.outcomes), plan.base)


def _rejected(featurized: Featurized) -> dict[str, int]:
    """The number of pictures that could not be used, by reason, the most frequent first."""
    return dict(Counter(featurized.rejected.column("reason").to_pylist()).most_common())


def _explain_rejected(featurized: Featurized) -> str:
    """The addition to a message that there are too few pictures: why others were not used; empty if all were."""
    reasons = _rejected(featurized)
    if not reasons:
        return ""
    counts = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
    [first] = featurized.rejected.slice(0, 1).to_pylist()
    return f"; not used: {counts}, such as {first['path']} ({first['reason']}: {first['detail']})"


def _seal(models: Folder, manifest: bundle.BundleManifest) -> bundle.BundleManifest:
    sealed = manifest.model_copy(update={"files": bundle.hash_files(models, manifest.version)})
    bundle.seal(models, manifest.version, sealed)
    return sealed


def _spark_properties(plan: FitPlan) -> dict[str, str]:
    on_s3 = any(place and is_on_s3(place) for place in (plan.models.root, plan.save_to))
    own = _SPARK_PROPERTIES | preloading(*MODULES) | (_OF_CLASSIFIER if plan.classifies else {})
    return own | (plan.connection.spark_properties() if on_s3 else {})
