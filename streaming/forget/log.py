"""Forgetting in the manifest log and in requests, beside the stream that works on them.

Spark may have planned a manifest already, or read it again after a restart: it takes the lines that it finds then. A
manifest that loses all of its pictures is first finished by a features file without rows, because a micro-batch
without rows is accepted only for a manifest that is done.
"""

from __future__ import annotations

from contextlib import suppress

from conf.errors import NotFoundError
from streaming.lease.denylist import Denylist
from streaming.output import manifests
from streaming.output.decision import is_decided
from streaming.output.rows import erase_in
from streaming.output.tables import Tables
from streaming.storage.folder import Folder


def erase_in_manifest(output: Folder, name: str, denylist: Denylist) -> None:
    """Take the lines of forgotten pictures out of a manifest."""
    manifest = name.removeprefix(f"{manifests.LOG_FOLDER}/").removesuffix(manifests.SUFFIX)
    try:
        pictures = manifests.read_manifest(output, manifest)
    except NotFoundError:  # folded meanwhile, by a holder that honours the denylist
        return
    if all(denylist.is_forgotten(picture.path) for picture in pictures) and not is_decided(output, manifest):
        Tables(output).commit_nothing(manifest)
    erase_in(output, name, denylist)


def erase_in_request(output: Folder, name: str, denylist: Denylist) -> None:
    """Take the lines of forgotten pictures out of a request, which keeps its id; delete it if it loses all."""
    erase_in(output, name, denylist)
    with suppress(NotFoundError):  # taken in meanwhile, by a holder that honours the denylist
        if not output.read(name).strip():
            output.delete(name)
