"""The verb `models prune`: deletes old models of a registry that nothing needs any more."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from batch_fit.versions import check_place
from conf.answers import Answer, Row, command
from conf.aws.connection import S3Connection
from conf.errors import NotFoundError, StorageError
from conf.plural import plural
from conf.settings import Settings
from streaming.export.record import latest
from streaming.output.lineage import Derivative, derivatives, path_of
from streaming.output.places import open_output
from streaming.output.tables import rows_by_model
from streaming.registry.bundle import BundleManifest
from streaming.registry.registry import CURRENT, Current, Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import is_there, may_be_deleted, open_folder


@dataclass(frozen=True)
class PrunedModel:
    """A model that was deleted, or would be.

    Attributes:
        version, pictures: as in its manifest.
        fitted_at: UTC.
    """

    version: str
    fitted_at: datetime
    pictures: int


@dataclass(frozen=True)
class KeptModel:
    """A model that stays.

    Attributes:
        version: of the model.
        why: for people.
        rows: the number of its rows in the output; None without an output.
    """

    version: str
    why: Sequence[str]
    rows: int | None


@dataclass(frozen=True)
class Pruned(Answer):
    """The models that were deleted, and those that stay.

    Attributes:
        models: canonical path of the registry.
        keep: how many of the latest models were to stay.
        output: canonical path of the output whose models stay; None if none was given.
        dry_run: whether nothing was deleted.
        lost: the version that CURRENT named although it is not there any more; None if all was well.
        current: the version that it names since, or would; None if there is none.
        pruned, kept: the oldest first.
    """

    models: str
    keep: int
    output: str | None
    dry_run: bool
    lost: str | None
    current: str | None
    pruned: Sequence[PrunedModel]
    kept: Sequence[KeptModel]

    def rows(self) -> Iterator[Row]:
        """The models that were deleted, and those that stay, with the reason; first, that CURRENT was repaired."""
        if self.lost:
            done = "would repair" if self.dry_run else "repaired"
            yield done, f"{CURRENT}: {self.lost} is not there; {self.current or 'no model'} is current in its place"
        done = "would prune" if self.dry_run else "pruned"
        yield done, f"{len(self.pruned):,} of {plural(len(self.pruned) + len(self.kept), 'model')} in {self.models}"
        for gone in self.pruned:
            yield "", f"{gone.version}  {plural(gone.pictures, 'picture')}"
        for place, one in enumerate(self.kept):
            yield "" if place else "kept", f"{one.version}  {', '.join(one.why)}"

    def next_step(self) -> str | None:
        """To do it, after a dry run."""
        if not self.dry_run or not self.pruned:
            return None
        output = ["--output", self.output] if self.output else []
        return command("batch_fit", "models", "prune", "--keep", str(self.keep), "--models", self.models, *output)


def prune(settings: Settings, keep: int, *, dry_run: bool) -> Pruned:
    """Delete all models but the `keep` latest, the current one, the one before it, and those that are in use.

    With an output, the models of its rows and of its latest exports are in use. A model by which `forget` finds saved
    features is in use as long as these are there.

    If the current model is not there any more, the one before it, of those that are, becomes the current one first.

    Repeating a killed call finishes it.

    Raises:
        ModelError: the registry cannot be read, or another process promoted a model meanwhile.
        OutputError: the output cannot be read.
    """
    connection = S3Connection.of(settings.s3)
    models = open_folder(settings.models or "", connection)
    registry = Registry(models)
    # First: whatever is promoted from now on makes `delete` fail, or is later than what is listed here.
    current, lost = registry.repair(dry_run=dry_run)
    manifests = registry.versions()
    if not manifests and current is None and lost is None:
        check_place(models)
    if not dry_run:
        registry.remove_incomplete(datetime.now(UTC))
    output = open_output(settings, connection) if settings.output else None
    counts = rows_by_model(output) if output else None
    reasons = _reasons(manifests, current, keep)
    for version, why in _in_use(manifests, counts, output, connection):
        reasons[version].append(why)
    doomed = [one for one in manifests if not reasons[one.version]]
    if not dry_run:
        registry.delete([one.version for one in doomed])
    return Pruned(
        models=models.root,
        keep=keep,
        output=output.root if output else None,
        dry_run=dry_run,
        lost=lost,
        current=current.version if current else None,
        pruned=[PrunedModel(one.version, one.created_at, one.pictures) for one in doomed],
        kept=[
            KeptModel(one.version, tuple(reasons[one.version]), None if counts is None else counts[one.version])
            for one in manifests
            if reasons[one.version]
        ],
    )


def _reasons(manifests: Sequence[BundleManifest], current: Current | None, keep: int) -> dict[str, list[str]]:
    """The reasons to keep each model that lie in the registry; none for one that can go."""
    reasons: dict[str, list[str]] = {one.version: [] for one in manifests}
    if current:
        reasons.setdefault(current.version, []).append("current")
        if before := next((version for version in current.previous if version in reasons), None):
            reasons[before].append("rollback goes to it")
    for one in manifests[-keep:]:
        reasons[one.version].append(f"among the latest {keep}" if keep > 1 else "the latest")
    return reasons


def _in_use(
    manifests: Sequence[BundleManifest], counts: Counter[str] | None, output: Folder | None, connection: S3Connection
) -> Iterator[tuple[str, str]]:
    """Versions outside of the registry's own concern that somebody needs, or may need, with the reason."""
    versions = [one.version for one in manifests]
    for version, rows in (counts or {}).items():
        if version in versions:
            yield version, f"{plural(rows, 'row')} in the output"
    if output:
        for derivative in derivatives(output):
            if derivative.kind == "export":
                yield from _exported(output, derivative, versions, connection)
    for one in manifests:
        if one.saved_features:
            yield from _saved(one.saved_features, one.version, connection)


def _exported(
    output: Folder, export: Derivative, versions: Sequence[str], connection: S3Connection
) -> Iterator[tuple[str, str]]:
    try:
        named = latest(_look_into_export(output, export, connection))
    except StorageError as error:
        why = f"the latest export in {export.uri}, which may be of it, cannot be looked at: {error}"
        yield from ((version, why) for version in versions)
    else:
        if named and named.model and named.model in versions:
            yield named.model, f"the latest export in {export.uri} is of it"


def _look_into_export(output: Folder, export: Derivative, connection: S3Connection) -> Folder:
    folder = open_folder(export.uri, connection)
    if not is_there(folder):
        record = path_of(output, export)
        raise NotFoundError(
            f"it is not there, or empty; mount its disk, or delete {record} if it was deleted, or never made"
        )
    return folder


def _saved(to: str, version: str, connection: S3Connection) -> Iterator[tuple[str, str]]:
    try:
        if not may_be_deleted(to):
            raise NotFoundError(f"{os.path.dirname(to)} is not there, or empty; is it mounted?")
        if any(open_folder(to, connection).names("")):
            yield version, f"it has saved features in {to}, which forget finds by it; delete these first"
    except StorageError as error:
        yield version, f"its features in {to} cannot be looked at: {error}"
