"""A model bundle: the files of one fitted model, with a manifest that names them and their hashes.

Opening a bundle checks that none of its files was changed. Its layout::

    VERSION/
      backbone.tflite       LiteRT flatbuffer, picture to 1280 features
      projection.npz        scaler and PCA as arrays, for the stream
      classifier.npz        labels and logistic regression as arrays, for the stream; if there is a classifier
      pipeline/             the same as a Spark ML PipelineModel, for any Spark user
      statistics.npz        what the scaler and the PCA were computed from, for an incremental refit, but for
      held_back.parquet     the held-out pictures, on which the model is measured: hashes of paths, and features
      pictures.parquet      hashes of the paths of the pictures in it
      report.html           for people
      manifest.json         written last: a folder without it is not a bundle

The creation of the manifest decides. Whoever deletes the files of a fit that seems to be gone first creates it in its
place, as given up: see `give_up`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from conf.errors import AlreadyExistsError, BundleError, NotFoundError
from conf.settings import Settings
from streaming.features.backbone import ID_LENGTH
from streaming.features.classifier import Classifier
from streaming.features.featurizer import Recipe
from streaming.features.imaging import DEFAULT_SIDE
from streaming.features.projection import Projection
from streaming.storage.folder import Folder

MANIFEST = "manifest.json"
BACKBONE = "backbone.tflite"
PROJECTION = "projection.npz"
CLASSIFIER = "classifier.npz"
PIPELINE = "pipeline"
STATISTICS = "statistics.npz"
HELD_BACK = "held_back.parquet"
IDENTITIES = "pictures.parquet"
REPORT = "report.html"

ENOUGH_HELD_BACK = 100
"""The least number of held-out pictures that say enough about a model; a fit on 1,000 has as many."""

_TIME = "%Y%m%dT%H%M%SZ"
_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


class HeldBackFigures(BaseModel):
    """The quality of a model on its held-out pictures.

    Attributes:
        pictures: their number.
        variance_kept: the share of their variance; the manifest's own is that of the fitted pictures.
        error_p50: the median of their reconstruction errors.
        error_p95: the 95th percentile of their reconstruction errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: int
    variance_kept: float
    error_p50: float
    error_p95: float


class ModelComparison(BaseModel):
    """A comparison of a new model with the one that was current when it was fitted.

    Attributes:
        current: the version of the current model.
        pictures: the number of pictures compared, which neither model has seen.
        variance_kept: the share of their variance that the new model keeps; None if the two cannot be compared.
        current_variance_kept: the same of the current model.
        error: mean reconstruction error of the new model, in the same units for both.
        current_error: the same of the current model.
        not_worse: the verdict; False if it cannot be told.
        reason: for the verdict, for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    current: str
    pictures: int = 0
    variance_kept: float | None = None
    current_variance_kept: float | None = None
    error: float | None = None
    current_error: float | None = None
    not_worse: bool = False
    reason: str


class ClassifierFigures(BaseModel):
    """The labels of a classifier, counted, and its quality on held-out pictures.

    Attributes:
        classes: the number of labels.
        left_out: labels with too few pictures, which it does not know.
        holdout: what was held out: the setting `fit.holdout`.
        pictures: the number of held-out pictures with one of its labels.
        accuracy: the share of them that gets its label; None if it was not measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: int
    left_out: tuple[str, ...]
    holdout: str
    pictures: int
    accuracy: float | None


class BundleManifest(BaseModel):
    """The content of `manifest.json`.

    `side` is the width and height in pixels at which the backbone sees pictures. `saved_features` is the canonical path
    to which the fit saved its features. `forgotten` counts the pictures in the statistics that were forgotten since.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    version: str
    created_at: datetime
    weights: str
    side: int = DEFAULT_SIDE  # of bundles that do not say
    k: int
    variance_kept: float
    pictures: int
    quarantined: int
    input: str
    limit: int | None
    from_version: str | None
    held_back: HeldBackFigures | None = None
    comparison: ModelComparison | None = None
    classifier: ClassifierFigures | None = None
    files: dict[str, str]
    saved_features: str | None = None
    forgotten: int = 0

    @property
    def backbone(self) -> str:
        """The id of its backbone, see `backbone_id`."""
        return self.files[BACKBONE][:ID_LENGTH]


class GivenUpModel(BaseModel):
    """The content of `manifest.json` of a model that its fit did not finish: its files were, or are being, deleted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    given_up_at: datetime


def new_version(now: datetime, backbone: bytes, projection: Projection, classifier: Classifier | None = None) -> str:
    """A version sorts by time and names its content: `20260131T235959Z-1a2b3c4d`."""
    content = backbone + projection.to_bytes() + (classifier.to_bytes() if classifier else b"")
    digest = hashlib.sha256(content).hexdigest()
    return f"{now:{_TIME}}-{digest[:8]}"


def made_at(version: str) -> datetime:
    """The time at which a model was made, from its version."""
    return datetime.strptime(version.partition("-")[0], _TIME).replace(tzinfo=UTC)


def is_version(name: str) -> bool:
    """Whether `name` has the form of a version, so that it can name no file outside the registry."""
    return _VERSION.fullmatch(name) is not None


class Bundle:
    """A complete and unchanged bundle: every file is read and its hash checked when it is opened.

    Raises:
        BundleError: a file is missing or was changed; the message names it and the version.
    """

    def __init__(self, models: Folder, version: str) -> None:
        self.manifest = read_bundle_manifest(models, version)
        while True:
            try:
                self._files = _read_files(models, self.manifest)
            except BundleError:
                present = read_bundle_manifest(models, version)
                if present == self.manifest:
                    raise
                self.manifest = present  # it was resealed meanwhile
            else:
                return

    @property
    def version(self) -> str:
        """The version of the model."""
        return self.manifest.version

    def file(self, name: str) -> bytes:
        """The content of a file of the bundle.

        Raises:
            BundleError: the bundle has no file of this name.
        """
        try:
            return self._files[name]
        except KeyError:
            raise BundleError(f"model {self.version} is not usable: it has no {name}") from None

    def projection(self) -> Projection:
        """The scaler and the PCA."""
        return Projection.from_bytes(self.file(PROJECTION))

    def classifier(self) -> Classifier | None:
        """The classifier; None if the model has none."""
        return Classifier.from_bytes(self.file(CLASSIFIER)) if CLASSIFIER in self.manifest.files else None

    def recipe(self, settings: Settings) -> Recipe:
        """The recipe with which workers featurize by this model."""
        return Recipe.of(self.file(BACKBONE), self.projection(), settings, self.classifier())


def read_bundle_manifest(models: Folder, version: str) -> BundleManifest:
    """The manifest of a bundle, whose files are not checked.

    Raises:
        BundleError: there is no such bundle, or its manifest was changed.
    """
    return _read_tagged_manifest(models, version)[0]


def _read_tagged_manifest(models: Folder, version: str) -> tuple[BundleManifest, str]:
    where = models.path(version)
    try:
        data, tag = models.read_tagged(f"{version}/{MANIFEST}")
        if _given_up(data):
            raise BundleError(f"{where} is not a bundle: its fit did not finish, and it was given up; fit again")
        manifest = BundleManifest.model_validate_json(data)
    except NotFoundError:
        raise BundleError(
            f"{where} is not a bundle: it has no {MANIFEST}; the registry has no such model; "
            "if it is the current one, promote another version"
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "content"
        raise BundleError(
            f"{where}/{MANIFEST} was changed or is of another release: {key}: {problem['msg']}; restore it, or "
            "delete its folder; if it is the current one, promote another version"
        ) from error
    if manifest.version != version:
        raise BundleError(
            f"{where}/{MANIFEST} belongs to version {manifest.version}, as if it was copied; delete its folder; if it "
            "is the current one, promote another version"
        )
    return manifest, tag


def _read_files(models: Folder, manifest: BundleManifest) -> dict[str, bytes]:
    where = models.path(manifest.version)
    files: dict[str, bytes] = {}
    for name, digest in manifest.files.items():
        try:
            data = models.read(f"{manifest.version}/{name}")
        except NotFoundError:
            raise BundleError(f"{where} is not usable: {name} is missing; promote another version") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise BundleError(f"{where} is not usable: {name} was changed; promote another version")
        files[name] = data
    return files


def seal(models: Folder, version: str, manifest: BundleManifest) -> None:
    """Turn the files below `VERSION/` into a bundle by writing its manifest.

    Raises:
        BundleError: this version is a bundle already, or its files were deleted because it took too long.
    """
    given_up = f"{models.path(version)} was given up, and its files deleted, as it was not finished in time; fit again"
    if not {BACKBONE, PROJECTION} <= manifest.files.keys():
        raise BundleError(given_up)
    try:
        models.create(f"{version}/{MANIFEST}", manifest.model_dump_json(indent=2).encode())
    except AlreadyExistsError:
        if find_given_up(models, version):
            raise BundleError(given_up) from None
        raise BundleError(f"{models.path(version)} is a bundle already") from None


def give_up(models: Folder, version: str, now: datetime) -> GivenUpModel | None:
    """Have a fit lose the right to seal a model, before its files are deleted; None if the model is sealed."""
    mark = GivenUpModel(version=version, given_up_at=now)
    try:
        models.create(f"{version}/{MANIFEST}", mark.model_dump_json(indent=2).encode())
    except AlreadyExistsError:
        return find_given_up(models, version)
    return mark


def find_given_up(models: Folder, version: str) -> GivenUpModel | None:
    """The mark of a model that was given up; None if it is a bundle, or nothing yet."""
    try:
        return _given_up(models.read(f"{version}/{MANIFEST}"))
    except NotFoundError:
        return None


def is_sealed(models: Folder, version: str) -> bool:
    """Whether there is a bundle of this version, whose manifest and files are not checked."""
    try:
        return _given_up(models.read(f"{version}/{MANIFEST}")) is None
    except NotFoundError:
        return False


def _given_up(data: bytes) -> GivenUpModel | None:
    try:
        return GivenUpModel.model_validate_json(data)
    except ValidationError:
        return None


class Revised(NamedTuple):
    """The new content of a file of a bundle, and the tag of the content that it was made from."""

    content: bytes
    tag: str


def reseal(models: Folder, version: str, contents: Mapping[str, Revised], forgotten: int) -> None:
    """Replace files that the stream does not need, while readers find the bundle complete at any time.

    The manifest stops naming the files until all are replaced. Repeating a killed call finishes it.

    `forgotten` is added to the manifest's, unless a killed call has done so.

    Raises:
        BundleError: there is no such bundle, or its manifest was changed.
        ConflictError: another process changes the bundle, or has changed a file since its new content was made.
    """
    manifest, tag = _read_tagged_manifest(models, version)
    if named := contents.keys() & manifest.files.keys():
        files = {name: digest for name, digest in manifest.files.items() if name not in named}
        manifest = manifest.model_copy(update={"files": files, "forgotten": manifest.forgotten + forgotten})
        tag = models.replace(f"{version}/{MANIFEST}", manifest.model_dump_json(indent=2).encode(), tag)
    for name, revised in contents.items():
        if models.read(f"{version}/{name}") != revised.content:
            models.replace(f"{version}/{name}", revised.content, revised.tag)
    digests = {name: hashlib.sha256(revised.content).hexdigest() for name, revised in contents.items()}
    sealed = manifest.model_copy(update={"files": dict(sorted({**manifest.files, **digests}.items()))})
    models.replace(f"{version}/{MANIFEST}", sealed.model_dump_json(indent=2).encode(), tag)


def hash_files(models: Folder, version: str) -> dict[str, str]:
    """The SHA-256 of every file below `VERSION/`, by name."""
    names = models.names(version)
    return {name.removeprefix(f"{version}/"): hashlib.sha256(models.read(name)).hexdigest() for name in names}
