"""Makes the environment in which a package's templates are rendered, with `base.css` and the filters of all pages."""

from __future__ import annotations

from datetime import UTC, datetime

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from conf.plural import plural

_THOUSAND = 1000
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def page_environment(package: str) -> Environment:
    """The environment of the templates beside a package's modules, also where the package is in a zip file."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("conf.pages", "")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "number": "{:,}".format,
        "percent": "{:.1%}".format,
        "plural": plural,
        "duration": _duration,
        "time": _time,
        "size": _size,
    }
    return environment


def _duration(seconds: float) -> str:
    for unit, length, lesser, part in (("days", _DAY, "h", _HOUR), ("h", _HOUR, "min", _MINUTE)):
        if seconds >= 2 * length:
            whole, rest = divmod(round(seconds), length)
            return f"{whole:,} {unit} {rest // part} {lesser}"
    minutes, rest = divmod(round(seconds), _MINUTE)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%d %B %Y, %H:%M} UTC"


def _size(count: int) -> str:
    """Bytes in decimal units, with three digits or so."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < _THOUSAND:
            return f"{size:,.0f} {unit}" if unit == "bytes" or size >= _THOUSAND / 10 else f"{size:.1f} {unit}"
        size /= _THOUSAND
    return f"{size:,.1f} TB"
