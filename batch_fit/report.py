"""The page that tells people what a fit gave: one HTML file that loads nothing.

It owns what the page says and how it looks; it must not know how the figures came about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

import numpy as np
from numpy.typing import NDArray

from batch_fit.charts import SERIES_COUNT, scatter_chart, variance_chart
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
<style>{_CSS}</style>
</head>
<body>
<header>
<p class="over">Fit report of model</p>
<h1>{escape(report.version)}</h1>
<dl class="facts">
{_fact("Components", f"{report.k:,}")}
{_fact("Variance kept", f"{kept:.1%}")}
{_fact("Pictures", f"{report.pictures:,}")}
{_fact("Quarantined", f"{report.rejected:,}")}
{_fact("Weights", escape(report.weights))}
{_fact("Fitted", f"{report.created_at.astimezone(UTC):%d %B %Y, %H:%M} UTC")}
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
            f" Of {_plural(held_back.pictures, 'picture')} held back at first, a model of as many components that had "
            f"not seen them keeps {held_back.variance_kept:.1%}."
        )
    if comparison := report.comparison:
        note += f" Against the model that was current: {escape(comparison.reason)}."
    return _section("Explained variance", note, variance_chart(explained, k, report.variance_target))


def _scatter(report: FitReport) -> str:
    title = "Pictures in the first two components" if report.k > 1 else "Pictures in the only component"
    if not len(report.scores):
        return _section(title, "This fit has read no new pictures, so there are none to show.")
    counts = Counter(report.score_labels)
    series = sorted(counts, key=lambda label: (-counts[label], label))[:SERIES_COUNT]
    note = _plural(len(report.scores), "picture")
    if len(report.scores) < report.used:
        note += f" of {report.used:,}, chosen by the hash of their paths"
    note += "."
    if report.k == 1:
        note += " There is no second component; rows are labels, and heights within a row only keep points apart."
    return _section(
        title,
        note,
        scatter_chart(report.scores, report.score_labels, series, report.explained_variance),
        _legend(series, counts),
    )


def _legend(series: Sequence[str], counts: Counter[str]) -> str:
    entries = [
        _legend_entry(f"series-{number}", shape, _name(label))
        for number, (label, shape) in enumerate(zip(series, _SHAPES, strict=False))
    ]
    others = len(counts) - len(series)
    if others:
        entries.append(_legend_entry("rest", _SHAPES[0], f"{_plural(others, 'other label')}"))
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _legend_entry(colour: str, shape: str, text: str) -> str:
    symbol = f'<svg viewBox="-6 -6 12 12" aria-hidden="true" style="fill: var(--{colour})">{shape}</svg>'
    return f"<li>{symbol}{text}</li>"


def _sample(report: FitReport) -> str:
    facts = [
        ("Input", f"<code>{escape(report.input)}</code>"),
        ("Limit", "none: all pictures" if report.limit is None else _plural(report.limit, "picture")),
        ("Read", f"{_plural(report.used + report.rejected, 'picture')}, of which {report.used:,} could be used"),
    ]
    if report.from_version:
        before = _plural(report.pictures - report.used, "picture")
        facts.append(("Added to", f"<code>{escape(report.from_version)}</code>, {before}"))
    content = [f"<dl>{''.join(_fact(*fact) for fact in facts)}</dl>"]
    labels = sorted(report.labels.items(), key=lambda item: (-item[1], item[0]))
    rows = [(_name(label), f"{count:,}", count / labels[0][1]) for label, count in labels]
    if rows:
        caption = f"Pictures by label, of {_plural(len(rows), 'label')}"
        content.append(_table(caption, ("Label", "Pictures"), rows[:_SHOWN]))
    if others := rows[_SHOWN:]:
        table = _table("The other labels", ("Label", "Pictures"), others)
        content.append(f"<details><summary>{_plural(len(others), 'more label')}</summary>{table}</details>")
    return _section("Sample", "", *content)


def _quarantine(report: FitReport) -> str:
    if not report.quarantined:
        return _section("Quarantine", "Every picture that was read could be used.")
    groups = sorted(report.quarantined, key=lambda group: (-group.count, group.reason))
    return _section(
        "Quarantine",
        "Pictures that could not be used, by reason, with examples.",
        f'<ul class="reasons">{"".join(map(_reason, groups))}</ul>',
    )


def _reason(group: Quarantined) -> str:
    examples = (
        f"<li><code>{escape(path)}</code> <small>{escape(detail)}</small></li>" for path, detail in group.examples
    )
    return (
        f"<li><code>{escape(group.reason)}</code> <strong>{_plural(group.count, 'picture')}</strong>"
        f"<ul>{''.join(examples)}</ul></li>\n"
    )


def _stages(report: FitReport) -> str:
    total = sum(report.seconds.values()) or 1.0
    rows = [(escape(stage), _duration(seconds), seconds / total) for stage, seconds in report.seconds.items()]
    rows.append(("<strong>in all</strong>", _duration(total), 1.0))
    return _section("Time", "", _table("How long each stage took", ("Stage", "Time"), rows))


def _section(title: str, note: str, *content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n<p>{note}</p>\n{''.join(content)}\n</section>\n"


def _fact(name: str, value: str) -> str:
    return f"<div><dt>{name}</dt><dd>{value}</dd></div>"


def _table(caption: str, head: tuple[str, str], rows: Iterable[tuple[str, str, float]]) -> str:
    """A table of names (HTML), figures, and bars of a share of the width."""
    body = "".join(
        f'<tr><th scope="row">{name}</th><td>{figure}</td>'
        f'<td><span class="bar" style="width: {share:.1%}"></span></td></tr>\n'
        for name, figure, share in rows
    )
    return (
        f'<table><caption>{caption}</caption><thead><tr><th scope="col">{head[0]}</th><th scope="col">{head[1]}</th>'
        f"<td></td></tr></thead><tbody>\n{body}</tbody></table>\n"
    )


def _name(label: str) -> str:
    return escape(label) or "<em>no folder</em>"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s" if minutes else f"{seconds:.1f} s"


_SHAPES = (
    '<circle r="4.5"/>',
    '<path d="M-4-4h8v8h-8z"/>',
    '<path d="M0-5 5 4H-5z"/>',
    '<path d="M0-5.5 5.5 0 0 5.5-5.5 0z"/>',
    '<path d="M0 5-5-4H5z"/>',
    '<path d="M-1.8-5h3.6v3.2H5v3.6H1.8V5h-3.6V1.8H-5v-3.6h3.2z"/>',
    '<path transform="rotate(45)" d="M-1.8-5h3.6v3.2H5v3.6H1.8V5h-3.6V1.8H-5v-3.6h3.2z"/>',
)
"""The markers of `charts`, for the legend."""

# The series are of Okabe and Ito's palette, which people with the common kinds of colour blindness tell apart, without
# its yellow, which is lost on white.
_CSS = """
:root {
  --page: #f6f7f9; --card: #fff; --ink: #1b2129; --soft: #5a6572; --faint: #dde1e6; --accent: #0b6bcb; --rest: #b3bac2;
  --series-0: #0072b2; --series-1: #d55e00; --series-2: #009e73; --series-3: #cc79a7; --series-4: #e69f00;
  --series-5: #56b4e9; --series-6: #1b2129; --warn: #8a1c0a; --warn-page: #fdece8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161b; --card: #1a2027; --ink: #e6e9ed; --soft: #a0abb7; --faint: #343d47; --accent: #5aa9f7;
    --rest: #5d6874;
    --series-0: #3c9be0; --series-1: #f07b2a; --series-2: #1fc296; --series-3: #dd92bb; --series-4: #f0b429;
    --series-5: #8fd0f7; --series-6: #e6e9ed; --warn: #ffb4a4; --warn-page: #46180f;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 24px 16px 48px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0 0 16px; font-size: 26px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 6px; font-size: 19px; }
p { margin: 0 0 12px; }
p:empty { display: none; }
ul { list-style: none; margin: 0; padding: 0; }
code { font: 0.9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
small, section > p, caption, dt, thead { color: var(--soft); font-size: 14px; }
.over { margin: 0; color: var(--soft); }
.facts { display: flex; flex-wrap: wrap; gap: 12px 36px; margin: 0 0 20px; }
.facts dd { font-size: 19px; font-weight: 600; overflow-wrap: anywhere; }
dl { margin: 0 0 12px; }
dd { margin: 0; }
section dl > div { display: flex; gap: 12px; }
section dt { flex: 0 0 72px; line-height: 24px; }
.warning { margin: 0 0 20px; padding: 14px 18px; border-left: 6px solid var(--warn); border-radius: 6px;
  background: var(--warn-page); color: var(--warn); font-size: 18px; }
main { display: grid; gap: 16px; grid-template: auto auto 1fr / repeat(2, minmax(0, 1fr)); }
section { padding: 18px 20px; border: 1px solid var(--faint); border-radius: 10px; background: var(--card); }
section > svg { display: block; width: 100%; height: auto; }
section svg text { font-family: inherit !important; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 10px; font-size: 14px; }
.legend li { display: flex; align-items: center; gap: 6px; }
.legend svg { flex: none; width: 13px; height: 13px; }
section:nth-of-type(3) { grid-row: span 2; }
summary { padding: 8px 0; cursor: pointer; }
table { width: 100%; border-collapse: collapse; font-size: 15px; }
caption { padding-bottom: 6px; text-align: left; }
th, td { padding: 5px 14px 5px 0; border-top: 1px solid var(--faint); font-weight: 400; text-align: left;
  vertical-align: top; }
td:nth-child(2), thead th:nth-child(2) { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td:nth-child(3) { width: 45%; }
.reasons > li { padding: 8px 0; border-top: 1px solid var(--faint); }
.reasons strong { float: right; font-weight: 400; }
.reasons li li { margin: 4px 0 0 16px; }
.reasons small { display: block; }
.bar { display: inline-block; height: 10px; min-width: 2px; border-radius: 2px; background: var(--accent); }
@media (max-width: 800px) {
  main { grid-template: none / minmax(0, 1fr); }
  section { padding: 14px; }
  .facts { gap: 8px 28px; }
}
"""
