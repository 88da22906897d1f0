"""How the page of a fit looks: its style sheet, and the pieces of HTML that it is made of.

It owns the form; it must not know what the page says.
"""

from __future__ import annotations

from collections.abc import Iterable

SHAPES = (
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
CSS = """
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


def section(title: str, note: str, *content: str) -> str:
    """A card of the page; an empty note is not shown."""
    return f"<section>\n<h2>{title}</h2>\n<p>{note}</p>\n{''.join(content)}\n</section>\n"


def fact(name: str, value: str) -> str:
    """A name and a value (HTML) in a `dl`."""
    return f"<div><dt>{name}</dt><dd>{value}</dd></div>"


def table(caption: str, head: tuple[str, str], rows: Iterable[tuple[str, str, float]]) -> str:
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


def legend_entry(colour: str, shape: str, text: str) -> str:
    """A marker in a colour of the style sheet, and what it stands for (HTML)."""
    symbol = f'<svg viewBox="-6 -6 12 12" aria-hidden="true" style="fill: var(--{colour})">{shape}</svg>'
    return f"<li>{symbol}{text}</li>"


def plural(count: int, noun: str) -> str:
    """A number of things, for people."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time, for people."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s" if minutes else f"{seconds:.1f} s"
