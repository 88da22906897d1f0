"""The verb `models prune`: deletes old models of a registry that nothing needs any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from batch_fit.versions import check_place
from conf.answers import Answer, Row, command
from conf.aws.connection import S3Connection
from conf.settings import Settings
from streaming.export.record import latest
from streaming.output.lineage import derivatives
from streaming.output.places import open_output
from streaming.output.tables import rows_by_model
from streaming.registry.bundle import BundleManifest
from streaming.registry.registry import Current, Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder


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
        pruned, kept: the oldest first.
    """

    models: str
    keep: int
    output: str | None
    dry_run: bool
    pruned: Sequence[PrunedModel]
    kept: Sequence[KeptModel]

    def rows(self) -> Iterator[Row]:
        """The models that were deleted, and those that stay, with the reason."""
        done = "would prune" if self.dry_run else "pruned"
        yield done, f"{len(self.pruned):,} of {len(self.pruned) + len(self.kept):,} models in {self.models}"
        for gone in self.pruned:
            yield "", f"{gone.version}  {gone.pictures:,} pictures"
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

    Repeating a killed call finishes it.

    Raises:
        ModelError: the registry cannot be read, or another process promoted a model meanwhile.
        OutputError: the output cannot be read.
    """
    connection = S3Connection.of(settings.s3)
    models = open_folder(settings.models or "", connection)
    registry = Registry(models)
    # First: whatever is promoted from now on makes `delete` fail, or is later than what is listed here.
    current, manifests = registry.history(), registry.versions()
    if not manifests and current is None:
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
    """Versions outside of the registry's own concern that somebody needs, with the reason."""
    there = {one.version for one in manifests}
    for version, rows in (counts or {}).items():
        if version in there:
            yield version, f"{rows:,} rows in the output"
    for derivative in derivatives(output) if output else ():
        if derivative.kind == "export":
            named = latest(open_folder(derivative.uri, connection))
            if named and named.model in there:
                yield named.model, f"the latest export in {derivative.uri} is of it"
    for one in manifests:
        if one.saved_features and any(open_folder(one.saved_features, connection).names("")):
            yield one.version, f"forget finds the features in {one.saved_features} by it; delete these first"
