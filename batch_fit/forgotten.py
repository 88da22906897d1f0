"""What a fit does about pictures that must be forgotten: none is read, and no model is made with one.

It owns the fit's side of the registry's denylist; it must not know how a picture comes onto it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from conf.errors import InputError
from conf.s3 import S3Connection
from streaming.features.bundle import Bundle
from streaming.features.denylist import Denylist
from streaming.features.storage import open_folder
from streaming.features.stored import Folder, StoredPicture

_logger = logging.getLogger(__name__)


def leave_out(pictures: Iterable[StoredPicture], denylist: Denylist) -> Iterator[StoredPicture]:
    """The pictures that may be read; the log says how many may not."""
    forgotten = 0
    for picture in pictures:
        if denylist.is_forgotten(picture.path):
            forgotten += 1
        else:
            yield picture
    if forgotten:
        _logger.info("left out: %d pictures that are to be forgotten", forgotten)


def warn_of(base: Bundle) -> None:
    """Say so if what is added to a model stays with what forgotten pictures gave."""
    if base.manifest.forgotten:
        _logger.warning(
            "%s was fitted with %d pictures that had to be forgotten, and what adds to it keeps what they gave; "
            "fit without --from to be rid of them",
            base.version,
            base.manifest.forgotten,
        )


def check_none(
    paths: Iterable[str], models: Folder, version: str, save_to: str | None, connection: S3Connection
) -> None:
    """Give up a model with pictures that came onto the denylist while it was fitted, and what was saved of it.

    Raises:
        InputError: there are such pictures.
    """
    forgotten = sum(map(Denylist.load(models).is_forgotten, paths))
    if forgotten:
        models.delete_tree(version)
        if save_to:
            open_folder(save_to, connection).delete_tree("")
        raise InputError(f"{forgotten} of the pictures had to be forgotten while the model was fitted; fit again")
