"""The page that tells people what a fit gave: one HTML file that loads nothing.

What it says is in `report.html.j2`, how it looks in `report.css`; the charts are in `charts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Template
from numpy.typing import NDArray

from batch_fit.report.charts import SERIES_COUNT, calibration_chart, scatter_chart, variance_chart
from batch_fit.report.classes import ClassesReport
from batch_fit.sides import SidesCompared
from conf.pages.environment import page_environment
from streaming.registry.bundle import BundleManifest


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
        labels: pictures by label, of those that this fit has read and used.
        quarantined: those that it has read and could not use, in the order of the page.
        seconds: how long each stage took, in order.
        explained_variance: (d,) shares of all components, descending.
        variance_target: the share that was asked for, if it was this that decided k.
        scores: (m, k) float32, the components of m of the pictures.
        score_labels: the labels of these m.
        classes: of the classifier; None if there is none.
        sides: a comparison with 224 pixels; None if that is the model's side, or too few pictures could be compared.
    """

    manifest: BundleManifest
    labels: Mapping[str, int]
    quarantined: Sequence[Rejections]
    seconds: Mapping[str, float]
    explained_variance: NDArray[np.float64]
    variance_target: float | None
    scores: NDArray[np.float32]
    score_labels: Sequence[str]
    classes: ClassesReport | None = None
    sides: SidesCompared | None = None

    @property
    def used(self) -> int:
        """The number of pictures that this fit has read and used."""
        return sum(self.labels.values())


def render(report: FitReport) -> str:
    """The page, in full; the same report gives the same bytes."""
    explained, k = report.explained_variance, report.manifest.k
    score_labels = _by_count(Counter(report.score_labels))
    series = [label for label, _ in score_labels[:SERIES_COUNT]]
    bins = report.classes.bins if report.classes else []
    return template().render(
        report=report,
        explained=explained,
        variance_chart=variance_chart(explained, k, report.variance_target),
        scatter_chart=scatter_chart(report.scores, report.score_labels, series, explained) if series else "",
        calibration_chart=calibration_chart([one.pictures for one in bins], [one.accuracy for one in bins])
        if bins
        else "",
        series=series,
        other_series=len(score_labels) - len(series),
        labels=_by_count(report.labels),
    )


def template() -> Template:
    """The page without its figures; it lies beside this module, also where that is in a zip file."""
    return page_environment("batch_fit.report").get_template("report.html.j2")


def _by_count(labels: Mapping[str, int]) -> list[tuple[str, int]]:
    """Labels and their numbers of pictures, the most frequent first."""
    return sorted(labels.items(), key=lambda item: (-item[1], item[0]))
