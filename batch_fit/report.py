"""The page that tells people what a fit gave: one HTML file that loads nothing.

It owns what the page says; it must not know how it looks, nor how the figures came about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

import numpy as np
from numpy.typing import NDArray

from batch_fit.charts import SERIES_COUNT, scatter_chart, variance_chart
from batch_fit.page import CSS, SHAPES, duration, fact, legend_entry, plural, section, table
from streaming.features.bundle import Comparison, HeldBackFigures

_SHOWN = 12
"""So many labels stand in the table from the start; the others come out on demand."""


@dataclass(frozen=True)
class Quarantined:
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
        version: of the model.
        created_at: with a time zone.
        weights: of the backbone, as `Backbone.weights`.
        input: where the pictures are.
        limit: the size of the sample that was asked for.
        from_version: the model whose statistics this fit has added to.
        held_back: what was measured on the pictures held back; None if they were too few.
        comparison: with the model that was current; None if there was none.
        pictures: how many the model was fitted to.
        labels: pictures by label, of those that this fit has read and used.
        quarantined: those that it has read and could not use.
        seconds: how long each stage took, in order.
        explained_variance: (d,) shares of all components, descending.
        k: the number of components that the model keeps.
        variance_target: the share that was asked for, if it was this that decided k.
        scores: (m, k) float32, the components of m of the pictures.
        score_labels: the labels of these m.
    """

    version: str
    created_at: datetime
    weights: str
    input: str
    limit: int | None
    from_version: str | None
    held_back: HeldBackFigures | None
    comparison: Comparison | None
    pictures: int
    labels: Mapping[str, int]
    quarantined: Sequence[Quarantined]
    seconds: Mapping[str, float]
    explained_variance: NDArray[np.float64]
    k: int
    variance_target: float | None
    scores: NDArray[np.float32]
    score_labels: Sequence[str]

    @property
    def used(self) -> int:
        """How many pictures this fit has read and used."""
        return sum(self.labels.values())

    @property
    def rejected(self) -> int:
        """How many pictures this fit has read and could not use."""
        return sum(group.count for group in self.quarantined)


def render(report: FitReport) -> str:
    """The page, in full; the same report gives the same bytes."""
    kept = float(report.explained_variance[: report.k].sum())
    sections = (_variance(report, kept), _scatter(report), _sample(report), _quarantine(report), _stages(report))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Model {escape(report.version)}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<p class="over">Fit report of model</p>
<h1>{escape(report.version)}</h1>
<dl class="facts">
{fact("Components", f"{report.k:,}")}
{fact("Variance kept", f"{kept:.1%}")}
{fact("Pictures", f"{report.pictures:,}")}
{fact("Quarantined", f"{report.rejected:,}")}
{fact("Weights", escape(report.weights))}
{fact("Fitted", f"{report.created_at.astimezone(UTC):%d %B %Y, %H:%M} UTC")}
</dl>
{_warning(report.weights)}
</header>
<main>
{"".join(sections)}
</main>
</body>
</html>
"""


def _warning(weights: str) -> str:
    if not weights.startswith("random:"):
        return ""
    return (
        '<p class="warning"><strong>Random weights.</strong> The backbone has learnt nothing, so these features mean '
        "nothing. This model is for trying things out; fit again with <code>--weights imagenet</code>.</p>"
    )


def _variance(report: FitReport, kept: float) -> str:
    explained, k = report.explained_variance, report.k
    why = "as asked" if report.variance_target is None else f"the fewest that reach {100 * report.variance_target:g}%"
    note = f"Kept: {k:,} of {len(explained):,} components ({why}), which is {kept:.1%} of the variance."
    if k > 1:
        note += f" The first explains {explained[0]:.2%}, the last of them {explained[k - 1]:.2%}."
    if held_back := report.held_back:
        note += (
            f" Of {plural(held_back.pictures, 'picture')} held back at first, a model of as many components that had "
            f"not seen them keeps {held_back.variance_kept:.1%}."
        )
    if comparison := report.comparison:
        note += f" Against the model that was current: {escape(comparison.reason)}."
    return section("Explained variance", note, variance_chart(explained, k, report.variance_target))


def _scatter(report: FitReport) -> str:
    title = "Pictures in the first two components" if report.k > 1 else "Pictures in the only component"
    if not len(report.scores):
        return section(title, "This fit has read no new pictures, so there are none to show.")
    counts = Counter(report.score_labels)
    series = sorted(counts, key=lambda label: (-counts[label], label))[:SERIES_COUNT]
    note = plural(len(report.scores), "picture")
    if len(report.scores) < report.used:
        note += f" of {report.used:,}, chosen by the hash of their paths"
    note += "."
    if report.k == 1:
        note += " There is no second component; rows are labels, and heights within a row only keep points apart."
    return section(
        title,
        note,
        scatter_chart(report.scores, report.score_labels, series, report.explained_variance),
        _legend(series, counts),
    )


def _legend(series: Sequence[str], counts: Counter[str]) -> str:
    entries = [
        legend_entry(f"series-{number}", shape, _name(label))
        for number, (label, shape) in enumerate(zip(series, SHAPES, strict=False))
    ]
    others = len(counts) - len(series)
    if others:
        entries.append(legend_entry("rest", SHAPES[0], f"{plural(others, 'other label')}"))
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _sample(report: FitReport) -> str:
    facts = [
        ("Input", f"<code>{escape(report.input)}</code>"),
        ("Limit", "none: all pictures" if report.limit is None else plural(report.limit, "picture")),
        ("Read", f"{plural(report.used + report.rejected, 'picture')}, of which {report.used:,} could be used"),
    ]
    if report.from_version:
        before = plural(report.pictures - report.used, "picture")
        facts.append(("Added to", f"<code>{escape(report.from_version)}</code>, {before}"))
    content = [f"<dl>{''.join(fact(*one) for one in facts)}</dl>"]
    labels = sorted(report.labels.items(), key=lambda item: (-item[1], item[0]))
    rows = [(_name(label), f"{count:,}", count / labels[0][1]) for label, count in labels]
    if rows:
        caption = f"Pictures by label, of {plural(len(rows), 'label')}"
        content.append(table(caption, ("Label", "Pictures"), rows[:_SHOWN]))
    if others := rows[_SHOWN:]:
        rest = table("The other labels", ("Label", "Pictures"), others)
        content.append(f"<details><summary>{plural(len(others), 'more label')}</summary>{rest}</details>")
    return section("Sample", "", *content)


def _quarantine(report: FitReport) -> str:
    if not report.quarantined:
        return section("Quarantine", "Every picture that was read could be used.")
    groups = sorted(report.quarantined, key=lambda group: (-group.count, group.reason))
    return section(
        "Quarantine",
        "Pictures that could not be used, by reason, with examples.",
        f'<ul class="reasons">{"".join(map(_reason, groups))}</ul>',
    )


def _reason(group: Quarantined) -> str:
    examples = (
        f"<li><code>{escape(path)}</code> <small>{escape(detail)}</small></li>" for path, detail in group.examples
    )
    return (
        f"<li><code>{escape(group.reason)}</code> <strong>{plural(group.count, 'picture')}</strong>"
        f"<ul>{''.join(examples)}</ul></li>\n"
    )


def _stages(report: FitReport) -> str:
    total = sum(report.seconds.values()) or 1.0
    rows = [(escape(stage), duration(seconds), seconds / total) for stage, seconds in report.seconds.items()]
    rows.append(("<strong>in all</strong>", duration(total), 1.0))
    return section("Time", "", table("How long each stage took", ("Stage", "Time"), rows))


def _name(label: str) -> str:
    return escape(label) or "<em>no folder</em>"
