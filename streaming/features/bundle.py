"""A model bundle: the files of one fitted model, with a manifest that names them and their hashes.

It owns the bundle's layout and the check that nothing in it was changed; it must not know how a model is fitted, nor
which bundle is the current one.

::

    VERSION/
      backbone.tflite       LiteRT flatbuffer, picture to 1280 features
      projection.npz        scaler and PCA as arrays: what the stream loads
      pipeline/             the same as a Spark ML PipelineModel: what any Spark user loads
      statistics.npz        what the scaler and the PCA were computed from, for an incremental refit, but for
      held_back.parquet     the pictures that were held back to measure the model on, as hashes of paths and features
      pictures.parquet      hashes of the paths of the pictures in it
      report.html           for people
      manifest.json         written last: a folder without it is no bundle
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from conf.errors import AlreadyExistsError, BundleError, NotFoundError
from conf.settings import Settings
from streaming.features.featurizer import Recipe
from streaming.features.projection import Projection
from streaming.features.stored import Folder

MANIFEST = "manifest.json"
BACKBONE = "backbone.tflite"
PROJECTION = "projection.npz"
PIPELINE = "pipeline"
STATISTICS = "statistics.npz"
HELD_BACK = "held_back.parquet"
PICTURES = "pictures.parquet"
REPORT = "report.html"

ENOUGH_HELD_BACK = 100
"""Fewer pictures that were held back say too little about a model; a fit on 1,000 holds back as many."""

_TIME = "%Y%m%dT%H%M%SZ"
_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


class HeldBackFigures(BaseModel):
    """What a model makes of pictures of its kind that it has not seen.

    Attributes:
        pictures: so many were held back.
        variance_kept: of theirs, as the manifest's own is of the pictures that were fitted.
        error_p50: half of them have a reconstruction error of at most this.
        error_p95: all but a twentieth of them have one of at most this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: int
    variance_kept: float
    error_p50: float
    error_p95: float


class Comparison(BaseModel):
    """How a new model stands against the one that was current when it was fitted.

    Attributes:
        current: the version of the other.
        pictures: so many pictures that neither has seen were looked at.
        variance_kept: of theirs, by the new model; None if the two cannot be compared.
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


class BundleManifest(BaseModel):
    """What `manifest.json` holds.

    `saved_features` is where the fit saved its features, canonical. `forgotten` counts the pictures that are in the
    statistics and had to be forgotten since.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    version: str
    created_at: datetime
    weights: str
    k: int
    variance_kept: float
    pictures: int
    quarantined: int
    input: str
    limit: int | None
    from_version: str | None
    held_back: HeldBackFigures | None = None
    comparison: Comparison | None = None
    files: dict[str, str]
    saved_features: str | None = None
    forgotten: int = 0


def new_version(now: datetime, backbone: bytes, projection: Projection) -> str:
    """A version sorts by time and names its content: `20260131T235959Z-1a2b3c4d`."""
    digest = hashlib.sha256(backbone + projection.to_bytes()).hexdigest()
    return f"{now:{_TIME}}-{digest[:8]}"


def made_at(version: str) -> datetime:
    """When a model was made, from its version."""
    return datetime.strptime(version.partition("-")[0], _TIME).replace(tzinfo=UTC)


def is_version(name: str) -> bool:
    """Whether `name` has the form of a version, so that it can name no file outside the registry."""
    return _VERSION.fullmatch(name) is not None


class Bundle:
    """A complete and unchanged bundle: every file is read and its hash checked when it is opened.

    Raises:
        BundleError: naming the version and the file that is missing or was changed.
    """

    def __init__(self, models: Folder, version: str) -> None:
        self.manifest = read_manifest(models, version)
        while True:
            try:
                self._files = _read_files(models, self.manifest)
            except BundleError:
                present = read_manifest(models, version)
                if present == self.manifest:
                    raise
                self.manifest = present  # it was sealed anew meanwhile
            else:
                return

    @property
    def version(self) -> str:
        """The version."""
        return self.manifest.version

    def file(self, name: str) -> bytes:
        """The content of a file of the bundle.

        Raises:
            BundleError: if the bundle has none of this name.
        """
        try:
            return self._files[name]
        except KeyError:
            raise BundleError(f"model {self.version} is not usable: it has no {name}") from None

    def projection(self) -> Projection:
        """The scaler and the PCA."""
        return Projection.from_bytes(self.file(PROJECTION))

    def recipe(self, settings: Settings) -> Recipe:
        """What workers need to featurize with this model."""
        return Recipe.of(self.file(BACKBONE), self.projection(), settings)


def read_manifest(models: Folder, version: str) -> BundleManifest:
    """What a bundle says of itself; its files are not checked.

    Raises:
        BundleError: there is no such bundle, or its manifest was changed.
    """
    return _read_tagged_manifest(models, version)[0]


def _read_tagged_manifest(models: Folder, version: str) -> tuple[BundleManifest, str]:
    where = models.path(version)
    try:
        data, tag = models.read_tagged(f"{version}/{MANIFEST}")
        manifest = BundleManifest.model_validate_json(data)
    except NotFoundError:
        raise BundleError(f"{where} is no bundle: it has no {MANIFEST}; the registry has no such model") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "content"
        raise BundleError(
            f"{where}/{MANIFEST} was changed or is of another release: {key}: {problem['msg']}"
        ) from error
    if manifest.version != version:
        raise BundleError(f"{where}/{MANIFEST} belongs to version {manifest.version}; was it copied?")
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
        BundleError: if this version is a bundle already.
    """
    try:
        models.create(f"{version}/{MANIFEST}", manifest.model_dump_json(indent=2).encode())
    except AlreadyExistsError:
        raise BundleError(f"{models.path(version)} is a bundle already") from None


def reseal(models: Folder, version: str, contents: Mapping[str, bytes], forgotten: int) -> None:
    """Exchange files that the stream does not need, while others read the bundle and find it whole at any time.

    The manifest names the files again once all are exchanged. A killed call is finished by the same call.

    Args:
        models: the registry.
        version: of the bundle.
        contents: the new content of files that are there, by name.
        forgotten: to be added to the manifest's; a killed call has done so.

    Raises:
        BundleError: there is no such bundle, or its manifest was changed.
        ConflictError: somebody else changes the bundle.
    """
    manifest, tag = _read_tagged_manifest(models, version)
    if named := contents.keys() & manifest.files.keys():
        files = {name: digest for name, digest in manifest.files.items() if name not in named}
        manifest = manifest.model_copy(update={"files": files, "forgotten": manifest.forgotten + forgotten})
        tag = models.replace(f"{version}/{MANIFEST}", manifest.model_dump_json(indent=2).encode(), tag)
    for name, content in contents.items():
        former, file_tag = models.read_tagged(f"{version}/{name}")
        if former != content:
            models.replace(f"{version}/{name}", content, file_tag)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    sealed = manifest.model_copy(update={"files": dict(sorted({**manifest.files, **digests}.items()))})
    models.replace(f"{version}/{MANIFEST}", sealed.model_dump_json(indent=2).encode(), tag)


def hash_files(models: Folder, version: str) -> dict[str, str]:
    """The SHA-256 of every file below `VERSION/`, by name."""
    names = models.names(version)
    return {name.removeprefix(f"{version}/"): hashlib.sha256(models.read(name)).hexdigest() for name in names}
