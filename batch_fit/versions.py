"""The verb `models`: lists the models of a registry, shows one, and says which is the current one."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from conf.answers import Answer, Row, command
from conf.aws.connection import S3Connection
from conf.errors import NoModelError
from conf.settings import Settings
from streaming.output.manifests import is_log
from streaming.output.places import open_output
from streaming.output.tables import rows_by_model
from streaming.registry.bundle import BundleManifest, is_version
from streaming.registry.registry import CURRENT, Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import is_on_s3, open_folder

_HEAD = ("", "version", "fitted (UTC)", "promoted", "k", "variance", "pictures", "side", "backbone", "weights")
_IN_OUTPUT = "in output"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedModel:
    """A model of the registry.

    Attributes:
        version, k, variance_kept, pictures, side, weights: as in its manifest.
        backbone: its id, as in the column of this name of the embeddings that the model may be applied to.
        fitted_at: UTC.
        current: whether it is the one to serve.
        was_current: whether it is one that `rollback` goes back to.
        promoted_at: when it became the current one, UTC; None of all others, of which the registry does not know.
        rows: the number of its rows in the output; None without an output.
    """

    version: str
    fitted_at: datetime
    current: bool
    was_current: bool
    promoted_at: datetime | None
    k: int
    variance_kept: float
    pictures: int
    side: int
    backbone: str
    weights: str
    rows: int | None

    def cells(self) -> tuple[str, ...]:
        """The columns of the table for people, without the rows."""
        return (
            "*" if self.current else "",
            self.version,
            _minute(self.fitted_at),
            _minute(self.promoted_at) if self.promoted_at else "before" if self.was_current else "",
            str(self.k),
            f"{self.variance_kept:.1%}",
            f"{self.pictures:,}",
            str(self.side),
            self.backbone,
            self.weights,
        )


@dataclass(frozen=True)
class ListedModels(Answer):
    """The models of a registry.

    Attributes:
        models: canonical path.
        versions: the oldest first.
        deleted: the number of rows in the output by versions that the registry does not have; None without an output.
    """

    models: str
    versions: Sequence[ListedModel]
    deleted: Mapping[str, int] | None

    def rows(self) -> Iterator[Row]:
        """A table of the models, the current one marked; with a column of rows if there is an output."""
        lines: list[tuple[str, ...]] = [_HEAD]
        lines += [one.cells() for one in self.versions]
        counts = [_IN_OUTPUT, *(f"{one.rows:,}" for one in self.versions if one.rows is not None)]
        for version, rows in sorted((self.deleted or {}).items()):
            lines.append(("", version, *[""] * (len(_HEAD) - 3), "not in this registry"))
            counts.append(f"{rows:,}")
        if len(lines) == 1:
            yield f"no models yet in {self.models}"
        elif self.deleted is None:
            yield from _aligned(lines)
        else:
            yield from _aligned([(*line[:-3], count, *line[-3:]) for line, count in zip(lines, counts, strict=True)])

    def next_step(self) -> str | None:
        """To have a current model, if there is none."""
        if not self.versions:
            return command("batch_fit", "fit", "--input", "PICTURES", "--models", self.models)
        if any(one.current for one in self.versions):
            return None
        return command("batch_fit", "models", "promote", self.versions[-1].version, "--models", self.models)


@dataclass(frozen=True)
class ShownModel(Answer):
    """A model that was checked."""

    manifest: BundleManifest

    def rows(self) -> Iterator[Row]:
        """The manifest, which is JSON."""
        yield self.manifest.model_dump_json(indent=2)

    def document(self) -> object:
        """The manifest."""
        return self.manifest.model_dump(mode="json")


@dataclass(frozen=True)
class Promoted(Answer):
    """The model that `promote` or `rollback` has made the current one.

    Attributes:
        models: canonical path of the registry.
        current: its version.
        before: the version that was current until then; None if there was none.
    """

    models: str
    current: str
    before: str | None

    def rows(self) -> Iterator[Row]:
        """One row."""
        yield "current", self.current

    def next_step(self) -> str | None:
        """To undo it."""
        if self.before in (None, self.current):
            return None
        return command("batch_fit", "models", "promote", str(self.before), "--models", self.models)


def list_models(settings: Settings) -> ListedModels:
    """All models of the registry, and how many pictures of an output are in which of them.

    Raises:
        ModelError: the registry cannot be read, or the place is not a registry.
        OutputError: the output cannot be read.
    """
    connection = S3Connection.of(settings.s3)
    models = open_folder(settings.models or "", connection)
    registry = Registry(models)
    counts = _count_rows(settings, connection)
    manifests, current = registry.versions(), registry.history()
    if not manifests and current is None:
        check_place(models)
    versions = [
        ListedModel(
            version=one.version,
            fitted_at=one.created_at,
            current=current is not None and one.version == current.version,
            was_current=current is not None and one.version in current.previous,
            promoted_at=current.promoted_at if current and one.version == current.version else None,
            k=one.k,
            variance_kept=one.variance_kept,
            pictures=one.pictures,
            side=one.side,
            backbone=one.backbone,
            weights=one.weights,
            rows=None if counts is None else counts[one.version],
        )
        for one in manifests
    ]
    there = {one.version for one in manifests}
    deleted = None if counts is None else {name: rows for name, rows in counts.items() if name not in there}
    return ListedModels(models.root, versions, deleted)


def _count_rows(settings: Settings, connection: S3Connection) -> Counter[str] | None:
    """The rows of each model in the output; None if none is named, or no stream has begun there yet."""
    if settings.output is None:
        return None
    output = open_folder(settings.output, connection)
    if is_log(output):
        return rows_by_model(open_output(settings, connection))
    _logger.warning("%s: no stream has written here yet, so no rows are counted", output.root)
    return None


def check_place(models: Folder) -> None:
    """Refuse a place that is not a registry without models, but something else.

    Raises:
        NoModelError: saying what is there.
    """
    if not is_on_s3(models.root) and not os.path.isdir(models.root):
        raise NoModelError(f"--models: {models.root} is not there; check the path")
    for name in models.names(""):
        folder, slash, _ = name.partition("/")
        ours = name == CURRENT or (slash and (folder.startswith("_") or is_version(folder)))  # or of a fit that goes on
        ours = ours or name.startswith(".")  # as file managers leave
        if not ours:
            raise NoModelError(f"--models: {models.root} is not a registry, and holds {name}; check the path")


def change_current(settings: Settings, version: str | None) -> Promoted:
    """Make a version the current one, or without one, go back to the one before.

    Raises:
        ModelError: the version is not usable; there is none before; another process promoted at the same time.
    """
    models = open_folder(settings.models or "", S3Connection.of(settings.s3))
    registry = Registry(models)
    before = registry.current_or_none()
    if version is None:
        version = registry.rollback()
    else:
        registry.promote(version)
    return Promoted(models.root, version, before)


def show_model(settings: Settings, version: str | None) -> ShownModel:
    """A version, or the current one, after checking that nothing in it was changed.

    Raises:
        ModelError: there is no such version, or it was changed.
    """
    registry = Registry(open_folder(settings.models or "", S3Connection.of(settings.s3)))
    return ShownModel(registry.open(version or registry.current()).manifest)


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def _aligned(lines: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
