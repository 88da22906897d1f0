"""The report's charts as inline SVG.

The page draws the legend, and defines the colours as CSS variables, so that one picture serves light and dark.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batch_fit.report.pictures import Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

SERIES_COUNT = len(_MARKERS)
"""So many labels get a colour and a shape of their own."""

_GROUP = "group-"

# What matplotlib takes for colours becomes a CSS variable of the page: var(--ink) and so on.
_INK, _FAINT, _ACCENT, _REST = "#0000f0", "#0000f1", "#0000f2", "#0000f3"
_SERIES = tuple(f"#0000e{number}" for number in range(SERIES_COUNT))
_VARIABLES = {_INK: "ink", _FAINT: "faint", _ACCENT: "accent", _REST: "rest"} | {
    colour: f"series-{number}" for number, colour in enumerate(_SERIES)
}

_WIDTH = 4.5  # inches of 72 units: text of 10 units has 10 px on a phone and 16 px on a desktop
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _FAINT,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",  # text, in the page's font
    "text.color": _INK,
    "xtick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.color": _FAINT,
    "ytick.labelcolor": _INK,
}
_DOTTED = (0, (2, 3))


def variance_chart(explained: NDArray[np.float64], k: int, target: float | None) -> str:
    """Cumulative explained variance above, that of each component below, with k marked.

    Args:
        explained: (d,) shares, descending.
        k: the number of components that are kept.
        target: the share that was asked for, if it was this that decided k.
    """
    from matplotlib.ticker import LogLocator  # noqa: PLC0415 - as in _svg

    shown = min(len(explained), max(3 * k, 20))
    cumulative = np.concatenate([[0], np.cumsum(explained)])

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        above.plot(cumulative[: shown + 1], color=_ACCENT, linewidth=2)
        above.plot(k, cumulative[k], "o", color=_ACCENT, markersize=8, zorder=3, clip_on=False)
        is_left, is_low = k > shown / 2, cumulative[k] < 0.5  # noqa: PLR2004 - where there is room for the text
        above.annotate(
            f"k = {k:,}\n{cumulative[k]:.1%}",
            xy=(k, 1.05 if is_low else cumulative[k]),
            annotation_clip=False,
            xytext=(-10 if is_left else 10, -10),
            textcoords="offset points",
            ha="right" if is_left else "left",
            va="top",
            weight="bold",
        )
        if target is not None:
            above.axhline(target, color=_INK, linewidth=1, linestyle=_DOTTED)
        above.set(ylabel="cumulative", ylim=(0, 1.05), xlim=(0, shown + 0.5))
        components = np.arange(1, shown + 1)
        below.plot(components[k - 1 :], explained[k - 1 : shown], color=_REST, linewidth=2)
        below.plot(components[:k], explained[:k], color=_ACCENT, linewidth=2)
        below.plot(k, explained[k - 1], "o", color=_ACCENT, markersize=8, zorder=3)
        floor = max(
            explained[shown - 1], explained[0] / 1e5
        )  # beyond the rank there are only zeros and rounding errors
        below.set(ylabel="individual, log scale", xlabel="component", yscale="log", ylim=(floor / 2, explained[0] * 2))
        below.locator_params("x", integer=True)
        is_flat = explained[0] < 100 * floor  # powers of ten would be too few
        below.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_flat else (1,)))
        below.yaxis.set_minor_formatter("")
        for axes in (above, below):
            axes.axvline(k, color=_INK, linewidth=1, linestyle=_DOTTED)
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")

    return _svg(
        "variance", draw, f"Explained variance: the first {k} of {len(explained)} components keep {cumulative[k]:.1%}"
    )


def scatter_chart(sample: Sample, groups: Sequence[str], explained: NDArray[np.float64]) -> str:
    """A point for each picture: on the first two components, or on the first alone where there is no second.

    A point tells its path. The points of a group are an element with the id `scatter-group-<its place>`, and those of
    all other labels one more.

    Args:
        sample: of pictures.
        groups: labels. The first `SERIES_COUNT` have a colour and a shape of their own; others are grey.
        explained: shares of the components.
    """
    is_plane = sample.scores.shape[1] > 1
    place_of = {label: place for place, label in enumerate(groups)}
    places = np.array([place_of.get(label, len(groups)) for label in sample.labels])
    members = [np.flatnonzero(places == place) for place in range(len(groups) + 1)]
    drawn = [*range(SERIES_COUNT, len(groups) + 1), *range(min(SERIES_COUNT, len(groups)))]  # colours above grey

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place in drawn:
            points, is_series = sample.scores[members[place]], place < min(SERIES_COUNT, len(groups))
            row = place if is_series else SERIES_COUNT
            heights = points[:, 1] if is_plane else _spread(len(points)) - row
            marker, colour, size = (_MARKERS[place], _SERIES[place], 4.5) if is_series else ("o", _REST, 3.0)
            [line] = axes.plot(
                points[:, 0], heights, marker, color=colour, markersize=size, markeredgewidth=0, alpha=0.8
            )
            line.set_gid(f"{_GROUP}{place}")
        axes.set(xlabel=f"PC 1 ({explained[0]:.1%} of the variance)")
        axes.locator_params(nbins=6)
        if is_plane:
            axes.set(ylabel=f"PC 2 ({explained[1]:.1%})")
        else:
            axes.yaxis.set_visible(False)

    described = f"{len(places)} pictures on the first {'two components' if is_plane else 'component'}"
    paths = [[sample.paths[one] for one in members[place]] for place in drawn]
    return _with_titles(_svg("scatter", draw, described), f'<g id="scatter-{_GROUP}', paths)


def _with_titles(svg: str, begin: str, titles: Sequence[Sequence[str]]) -> str:
    """The chart with what a pointer over a marker shows. `forget` finds what names a picture as a whole title.

    Args:
        svg: the chart.
        begin: of each element that has markers, in the order in which they were drawn.
        titles: for the markers of each.
    """
    before, *elements = svg.split(begin)
    for place, (element, of_markers) in enumerate(zip(elements, titles, strict=True)):
        waiting = iter(of_markers)

        def named(match: re.Match[str], waiting: Iterator[str] = waiting) -> str:
            title = next(waiting, None)
            return match[0] if title is None else f"{match[1]}><title>{html.escape(title)}</title></use>"

        elements[place] = re.sub(r"(<use [^>]*)/>", named, element)
    return begin.join((before, *elements))


def calibration_chart(counts: Sequence[int], accuracies: Sequence[float]) -> str:
    """The accuracy of pictures by their confidence above, the number of pictures below.

    Args:
        counts: of pictures, in bins of equal width from confidence 0 to 1.
        accuracies: of these pictures.
    """
    width = 1 / len(counts)
    middles = (np.arange(len(counts)) + 0.5) * width

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.bar(middles, accuracies, 0.8 * width, color=_ACCENT)
        above.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=_DOTTED)
        above.set(ylabel="accuracy", ylim=(0, 1.05), xlim=(0, 1))
        below.bar(middles, counts, 0.8 * width, color=_REST)
        below.set(ylabel="pictures", xlabel="confidence")
        below.locator_params("y", nbins=3, integer=True)
        for axis in (above.xaxis, above.yaxis):
            axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")

    told = ", ".join(
        f"{accuracy:.0%} of {count:,} from {place * width:.0%}"
        for place, (count, accuracy) in enumerate(zip(counts, accuracies, strict=True))
        if count
    )
    return _svg("calibration", draw, f"Pictures that got their label, by confidence: {told}")


def _spread(count: int) -> NDArray[np.float64]:
    """Heights that keep points apart: the multiples of the golden ratio, which fill any range evenly."""
    return np.modf(np.linspace(0, 0.618034 * count, count, endpoint=False))[0] * 0.8


def _svg(name: str, draw: Callable[[Figure], None], description: str) -> str:
    """The figure as an element of an HTML page; the same input gives the same text.

    Args:
        name: prefix of the ids, so that those of two charts of a page differ.
        draw: draws it.
        description: what those hear who cannot see it.
    """
    import matplotlib as mpl  # noqa: PLC0415 - takes half a second, and only a fit's end needs it
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    buffer = io.StringIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's matplotlibrc says
        mpl.rcParams.update(_STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=(_WIDTH, _WIDTH), layout="constrained")
        draw(figure)
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<svg [^>]*?(viewBox=\S+ \S+ \S+ \S+)[^>]*>",
        rf'<svg \1 role="img" aria-label="{html.escape(description)}">',
        svg,
        count=1,
    )
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\1{name}-", svg)
    return re.sub("|".join(_VARIABLES), lambda match: f"var(--{_VARIABLES[match[0]]})", svg)
