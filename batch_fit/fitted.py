"""The answers of `fit` and `convert`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_fit.classes import FEWEST
from conf.answers import Answer, Row, command
from conf.patterns import DEFAULT, IGNORED_BY_DEFAULT
from conf.plural import plural
from conf.settings import StreamSettings
from streaming.registry.bundle import ENOUGH_HELD_BACK, BundleManifest, ClassifierFigures, HeldBackFigures

if TYPE_CHECKING:  # it imports Spark, which `convert` does without
    from batch_fit.sides import SidesCompared

_NAMED = 10


@dataclass(frozen=True)
class Fitted(Answer):
    """The result of a fit.

    Attributes:
        models: canonical path of the registry.
        manifest: of the new bundle.
        report: canonical path of the HTML page.
        promoted: whether it is the current model now.
        rejected: pictures that could not be used, by reason, the most frequent first.
        on_embeddings: whether the input of the manifest is an output whose embeddings were read.
        sides: a comparison with 224 pixels; None if that is its side, or it could not be compared.
        names: the options that say which files are pictures, where these are not the defaults.
    """

    models: str
    manifest: BundleManifest
    report: str
    promoted: bool
    rejected: dict[str, int]
    on_embeddings: bool
    sides: SidesCompared | None
    names: Sequence[str] = ()

    def rows(self) -> Iterator[Row]:
        """The model, and how good it is."""
        manifest = self.manifest
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.items())
        yield "model", f"{manifest.version} ({'current' if self.promoted else 'not promoted'})"
        if manifest.comparison:
            yield "compared", manifest.comparison.reason
        yield "components", f"{manifest.k}, which keep {manifest.variance_kept:.1%} of the variance"
        yield "weights", manifest.weights
        yield "side", _describe_side(manifest.side, self.sides)
        yield "pictures", f"{manifest.pictures:,}"
        yield "held out", describe_held_out(manifest.held_back)
        if manifest.classifier:
            yield from _describe_classes(manifest.classifier)
        yield "quarantined", f"{manifest.quarantined:,}{f' ({reasons})' if reasons else ''}"
        yield "report", self.report

    def next_step(self) -> str:
        """To use the model: on the pictures, or on the rows that are there; or to make it the current one."""
        models = ("--models", self.models)
        if not self.promoted:
            return command("batch_fit", "models", "promote", self.manifest.version, *models)
        if self.on_embeddings:
            return command("streaming", "export", "--output", self.manifest.input, *models, "--to", "EXPORTS")
        source = ("--input", self.manifest.input, *self.names)
        return command("streaming", "replay", *source, *models, "--output", "OUTPUT")


@dataclass(frozen=True)
class Converted(Answer):
    """A backbone that was converted.

    Attributes:
        weights: its id.
        side: width and height in pixels of the pictures that it sees.
        file: where it was written.
        bytes: its size.
    """

    weights: str
    side: int
    file: str
    bytes: int

    def rows(self) -> Iterator[Row]:
        """One line."""
        yield f"{self.weights} at {self.side} pixels converted: {self.file} ({self.bytes:,} bytes)"

    def next_step(self) -> str:
        """To fit with it."""
        return command("batch_fit", "fit", "--weights", self.file, "--input", "PICTURES", "--models", "MODELS")


def options_of_names(settings: StreamSettings) -> tuple[str, ...]:
    """What to type to have the same files for pictures, where the settings are not the defaults."""
    ignore = ",".join(settings.ignore).replace(",".join(IGNORED_BY_DEFAULT), DEFAULT)
    return (
        *(() if ignore == DEFAULT else ("--ignore", ignore)),
        *(("--include", ",".join(settings.include)) if settings.include else ()),
    )


def describe_held_out(figures: HeldBackFigures | None) -> str:
    """A line on the held-out pictures of a model: how many they are, and what it keeps of their variance."""
    if figures is None:
        return f"too few to tell drift ({ENOUGH_HELD_BACK} are needed, and more others than components)"
    if figures.pictures < ENOUGH_HELD_BACK:
        return f"{figures.pictures} of them, too few to tell drift ({ENOUGH_HELD_BACK} are needed)"
    return f"{figures.pictures:,} of them; a fit without them keeps {figures.variance_kept:.1%} of their variance"


def _describe_side(side: int, compared: SidesCompared | None) -> str:
    if compared is None:
        return f"{side} pixels"
    ratio = compared.own.rate / compared.default.rate
    return (
        f"{side} pixels, {ratio:.2f} times as fast as {compared.default.side}, with {compared.overlap:.0%} of its "
        f"nearest neighbours ({plural(compared.pictures, 'held-out picture')}; the report has more)"
    )


def _describe_classes(figures: ClassifierFigures) -> Iterator[Row]:
    if figures.accuracy is None:
        measured = "too few pictures were held out to tell their accuracy"
    else:
        measured = f"accuracy {figures.accuracy:.1%} on {plural(figures.pictures, 'held-out picture')}"
    yield "classes", f"{figures.classes:,}, {measured} (--holdout {figures.holdout})"
    if figures.left_out:
        named, more = figures.left_out[:_NAMED], len(figures.left_out) - _NAMED
        names = ", ".join(named) + (f" and {more:,} more; the report has all" if more > 0 else "")
        yield "left out", f"{len(figures.left_out):,} with fewer than {FEWEST} pictures: {names}"
