"""Pages that show what was found: one HTML file each, with thumbnails inside, that loads nothing.

What they say is in the templates beside this module, how they look in `search.css`.
"""

from __future__ import annotations

from conf.pages.file import write_page
from conf.settings import Settings
from streaming.features.thumbnails import thumbnails
from streaming.search.duplicates import Duplicates
from streaming.search.similar import Similar

_GROUPS = 100
_PER_GROUP = 12


def write_similar(settings: Settings, found: Similar, file: str) -> None:
    """Write the page of a search.

    Raises:
        StorageError: the file cannot be written.
    """
    shown = thumbnails(settings, [(found.picture, None), *((match.path, match.sha256) for match in found.matches)])
    farthest = max((match.distance for match in found.matches), default=0.0)
    write_page(file, __package__, "similar.html.j2", found=found, shown=shown, farthest=farthest)


def write_duplicates(settings: Settings, found: Duplicates, file: str) -> None:
    """Write the page of the largest groups.

    Raises:
        StorageError: the file cannot be written.
    """
    groups = found.groups[:_GROUPS]
    pictures = [(one.path, one.sha256) for group in groups for one in group.pictures[:_PER_GROUP]]
    shown = thumbnails(settings, pictures)
    write_page(file, __package__, "duplicates.html.j2", found=found, groups=groups, most=_PER_GROUP, shown=shown)
