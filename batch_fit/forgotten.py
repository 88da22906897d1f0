"""What a fit does about pictures that must be forgotten: none is read, and no model is made with one.

It owns the fit's side of the registry's denylist; it must not know how a picture comes onto it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from conf.errors import BundleError, InputError
from conf.s3 import S3Connection
from streaming.features.bundle import MANIFEST, Bundle, read_manifest
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
    paths: Iterable[str],
    base: Bundle | None,
    models: Folder,
    version: str,
    save_to: str | None,
    connection: S3Connection,
) -> None:
    """Give up a model with pictures that had to be forgotten while it was fitted, and what was saved of it.

    It has to be called once the model is sealed, too. `forget` adds to the denylist first, and then looks for models
    with the pictures until it finds none: it meets a model that is sealed before its last look, and of one that is
    sealed later, it has dealt with the base by then.

    Args:
        paths: of the pictures that were read.
        base: the model that was added to, as it was read.
        models: the registry.
        version: of the model, sealed or not.
        save_to: where features were saved.
        connection: to S3.

    Raises:
        InputError: there are such pictures.
    """
    forgotten = sum(map(Denylist.load(models).is_forgotten, paths))
    if forgotten or (base and _has_changed(models, base)):
        models.delete(f"{version}/{MANIFEST}")  # first, so that nobody takes the rest for a model
        models.delete_tree(version)
        if save_to:
            open_folder(save_to, connection).delete_tree("")
        whose = f"{forgotten} of the pictures" if forgotten or not base else f"pictures of {base.version}"
        raise InputError(f"{whose} had to be forgotten while the model was fitted; fit again")


def _has_changed(models: Folder, base: Bundle) -> bool:
    try:
        return read_manifest(models, base.version) != base.manifest
    except BundleError:  # it was deleted, as it should be once there is a model without them
        return True
