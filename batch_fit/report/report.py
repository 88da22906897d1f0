"""The page that tells people what a fit gave: one HTML file that loads nothing.

What it says is in `report.html.j2`, how it looks in `report.css`; the charts are in `charts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jinja2 import Template
from numpy.typing import NDArray

from batch_fit.report.charts import SERIES_COUNT, calibration_chart, scatter_chart, variance_chart
from batch_fit.report.classes import ClassesReport
from batch_fit.report.pictures import Sample, Worst, choose_pictures
from batch_fit.sides import SidesCompared
from conf.answers import command
from conf.pages.environment import page_environment
from conf.settings import Settings
from streaming.features.thumbnails import Thumbnail, is_drawable, thumbnails
from streaming.registry.bundle import BundleManifest

_SIDE = 96
_SECONDS = 60.0
"""For all pictures of the report, after which a fit goes on without the rest."""
_CLASSIFYING = "--classify --holdout prefix --promote never"
_GROUPS = 300
"""So many labels can be picked out of the scatter plot."""


@dataclass(frozen=True)
class Rejections:
    """The pictures that could not be used for one reason.

    Attributes:
        reason: the stable code.
        count: how many there are.
        examples: path and detail of a few of them.
    """

    reason: str
    count: int
    examples: Sequence[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class FitReport:
    """All that the page tells.

    Attributes:
        manifest: of the model.
        models: canonical path of the registry.
        labels: pictures by label, of those that this fit has read and used.
        quarantined: those that it has read and could not use, in the order of the page.
        seconds: how long each stage took, in order.
        explained_variance: (d,) shares of all components, descending.
        variance_target: the share that was asked for, if it was this that decided k.
        sample: of the pictures.
        worst: of the held-out pictures, or where they are too few, of the sample.
        is_on_embeddings: whether the input is an output whose embeddings were read.
        thumbnails: of the pictures to show, by path; None if the page is to show none.
        classes: of the classifier; None if there is none.
        sides: a comparison with 224 pixels; None if that is the model's side, or too few pictures could be compared.
        names: the options that say which files are pictures, where these are not the defaults.
    """

    manifest: BundleManifest
    models: str
    labels: Mapping[str, int]
    quarantined: Sequence[Rejections]
    seconds: Mapping[str, float]
    explained_variance: NDArray[np.float64]
    variance_target: float | None
    sample: Sample
    worst: Worst
    is_on_embeddings: bool = False
    thumbnails: Mapping[str, Thumbnail] | None = None
    classes: ClassesReport | None = None
    sides: SidesCompared | None = None
    names: Sequence[str] = ()

    @property
    def used(self) -> int:
        """The number of pictures that this fit has read and used."""
        return sum(self.labels.values())


def with_thumbnails(report: FitReport, settings: Settings) -> FitReport:
    """The report with the pictures that it shows, of which the ones that cannot be read stay names."""
    rejected = (path for one in report.quarantined if is_drawable(one.reason) for path, _ in one.examples)
    worst = (path for path, _ in report.worst.pictures)
    paths = dict.fromkeys((*choose_pictures(report.sample).paths(), *worst, *rejected))
    shown = thumbnails(settings, ((path, None) for path in paths), _SIDE, _SECONDS)
    return replace(report, thumbnails=shown)


def render(report: FitReport) -> str:
    """The page, in full; the same report gives the same bytes."""
    explained, k = report.explained_variance, report.manifest.k
    groups = _by_count(Counter(report.sample.labels))
    names = [label for label, _ in groups[:_GROUPS]]
    bins = report.classes.bins if report.classes else []
    shown = report.thumbnails or {}
    drawn = {path for path, thumbnail in shown.items() if thumbnail.uri}
    return template().render(
        report=report,
        explained=explained,
        variance_chart=variance_chart(explained, k, report.variance_target),
        scatter_chart=scatter_chart(report.sample, names, explained) if names else "",
        calibration_chart=calibration_chart([one.pictures for one in bins], [one.accuracy for one in bins])
        if bins
        else "",
        groups=groups[:_GROUPS],
        series=SERIES_COUNT,
        other_groups=len(groups[_GROUPS:]),
        labels=_by_count(report.labels),
        drawn=drawn,
        unseen=len(shown) - len(drawn),
        chosen=choose_pictures(report.sample),
        steps=[*_steps(report)],
    )


def _steps(report: FitReport) -> Iterator[tuple[str, str]]:
    """What to do with the model, and the command for it."""
    model, models = report.manifest, ("--models", report.models)
    if report.is_on_embeddings:
        output = model.input
        yield (
            "Put all rows of the table into this model",
            command("streaming", "export", "--output", output, *models, "--to", "EXPORTS"),
        )
    else:
        output = "OUTPUT"
        yield (
            "Turn the pictures into a table of features, with this model once it is current",
            command("streaming", "replay", "--input", model.input, *report.names, *models, "--output", output),
        )
    yield "See which model is current, and which others there are", command("batch_fit", "models", "list", *models)
    yield "Make this one current, if it is not", command("batch_fit", "models", "promote", model.version, *models)
    if not report.classes:
        # In words, as a manifest does not know all options of its fit, and other ones would give another model.
        adds = model.from_version is not None and not report.is_on_embeddings  # a classifier needs all pictures
        yield (
            "Have the names of the folders predicted, too, by a model to look at before it is made current",
            f"the command of this fit {'without --from, and ' if adds else ''}with {_CLASSIFYING}",
        )
    yield (
        "Watch whether new pictures drift away from these",
        command("streaming", "status", "--output", output, "--html", "status.html"),
    )
    yield (
        "Find pictures like one",
        command("streaming", "similar", "PICTURE", "--table", output, "--html", "similar.html"),
    )


def template() -> Template:
    """The page without its figures; it lies beside this module, also where that is in a zip file."""
    return page_environment("batch_fit.report").get_template("report.html.j2")


def _by_count(labels: Mapping[str, int]) -> list[tuple[str, int]]:
    """Labels and their numbers of pictures, the most frequent first."""
    return sorted(labels.items(), key=lambda item: (-item[1], item[0]))
