"""Keeps forgotten pictures out of a fit, by the registry's denylist: none is read, and no model is made with one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from conf.errors import BundleError, InputError
from conf.plural import plural
from streaming.lease.denylist import Denylist
from streaming.registry.bundle import MANIFEST, Bundle, read_bundle_manifest
from streaming.storage.folder import Folder, StoredPicture

FORGOTTEN = "forgotten"
"""Why a picture is left out that is on the denylist."""

_logger = logging.getLogger(__name__)


def leave_out(pictures: Iterable[StoredPicture], denylist: Denylist, left_out: Counter[str]) -> Iterator[StoredPicture]:
    """The pictures that are not on the denylist; logs how many are, and counts them as `FORGOTTEN`."""
    for picture in pictures:
        if denylist.is_forgotten(picture.path):
            left_out[FORGOTTEN] += 1
        else:
            yield picture
    if left_out[FORGOTTEN]:
        _logger.info("left out, to be forgotten: %s", plural(left_out[FORGOTTEN], "picture"))


def warn_of(base: Bundle) -> None:
    """Warn if a model to be added to has statistics of pictures that were forgotten since."""
    if base.manifest.forgotten:
        _logger.warning(
            "%s was fitted with %s, forgotten since, and a fit that adds to it keeps what is of them in its "
            "statistics; fit without --from to remove them",
            base.version,
            plural(base.manifest.forgotten, "picture"),
        )


@dataclass(frozen=True)
class Draft:
    """The model that a fit has written, sealed or not."""

    models: Folder
    version: str
    features: Folder | None

    def delete(self) -> None:
        """Delete the manifest first, so that the rest is not taken for a model, and then the rest."""
        self.models.delete(f"{self.version}/{MANIFEST}")
        self.models.delete_tree(self.version)
        if self.features:
            self.features.delete_tree("")


def delete_if_forgotten(draft: Draft, paths: Iterable[str], base: Bundle | None) -> None:
    """Delete a model with pictures that had to be forgotten while it was fitted.

    Call it again once the model is sealed. `forget` adds to the denylist first, and then looks for models with the
    pictures until it finds none: it finds a model that is sealed before its last look; before one that is sealed later,
    it has changed the base.

    Raises:
        InputError: there are such pictures.
    """
    forgotten = sum(map(Denylist.load(draft.models).is_forgotten, paths))
    changed = _change_of(draft.models, base) if base else None
    if forgotten or changed:
        draft.delete()
        why = f"{forgotten} of the pictures had to be forgotten" if forgotten else changed
        raise InputError(f"{why} while the model was fitted; fit again")


def _change_of(models: Folder, base: Bundle) -> str | None:
    """What happened to the model that a fit adds to; None if nothing did."""
    try:
        if read_bundle_manifest(models, base.version) == base.manifest:
            return None
    except BundleError:  # as is right once there is a model without the pictures, and as models prune does, too
        return f"{base.version}, of --from, was deleted or damaged, perhaps by forget,"
    return f"pictures of {base.version} had to be forgotten"
