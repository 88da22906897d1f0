"""Pages that show what was found: one HTML file each, with thumbnails inside, that loads nothing.

What they say is in the templates beside this module, how they look in `search.css`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conf.errors import SettingsError, StorageError
from conf.settings import Settings
from streaming.search.duplicates import Duplicates
from streaming.search.similar import Similar
from streaming.search.thumbnails import thumbnails

_GROUPS = 100
_PER_GROUP = 12


def check_page(file: str | None) -> None:
    """Refuse a file that cannot be written, if a page is asked for, before a search that may take minutes.

    Raises:
        SettingsError: its folder is not there, or it is a folder itself.
    """
    if file is None:
        return
    path = Path(file)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise SettingsError(f"--html: {file} is a folder, or its folder is not there; give a file in a folder that is")


def write_similar(settings: Settings, found: Similar, file: str) -> None:
    """Write the page of a search.

    Raises:
        StorageError: the file cannot be written.
    """
    shown = thumbnails(settings, [(found.picture, None), *((match.path, match.sha256) for match in found.matches)])
    farthest = max((match.distance for match in found.matches), default=0.0)
    _write(file, "similar.html.j2", found=found, shown=shown, farthest=farthest)


def write_duplicates(settings: Settings, found: Duplicates, file: str) -> None:
    """Write the page of the largest groups.

    Raises:
        StorageError: the file cannot be written.
    """
    groups = found.groups[:_GROUPS]
    pictures = [(one.path, one.sha256) for group in groups for one in group.pictures[:_PER_GROUP]]
    shown = thumbnails(settings, pictures)
    _write(file, "duplicates.html.j2", found=found, groups=groups, most=_PER_GROUP, shown=shown)


def _write(file: str, template: str, **values: Any) -> None:
    from conf.pages.environment import page_environment  # noqa: PLC0415 - Jinja takes time, and most searches no page

    page = page_environment("streaming.search").get_template(template).render(**values)
    try:
        Path(file).write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"--html: {file} cannot be written: {error.strerror}") from error
