"""Forgetting in the manifest log and in requests, beside the stream that works on them.

It owns what becomes of a manifest or a request that loses lines; it must not know what else is erased. Spark may have
planned a manifest already, or read it again after a restart: it takes what it finds then. One that loses all of its
pictures is finished first, by a features file without rows, because a micro-batch without rows must be of a manifest
that is done.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime

from conf.errors import NotFoundError
from streaming import manifests
from streaming.batch_report import BatchReport
from streaming.erasure import erase_in
from streaming.features.denylist import Denylist
from streaming.features.schema import OUTCOMES
from streaming.features.stored import Folder
from streaming.sink import ParquetSink, Result

_NO_MODEL = "none"


def erase_in_manifest(output: Folder, name: str, denylist: Denylist) -> None:
    """Take the lines of forgotten pictures out of a manifest."""
    manifest = name.removeprefix(f"{manifests.FOLDER}/").removesuffix(manifests.SUFFIX)
    try:
        pictures = manifests.read_manifest(output, manifest)
    except NotFoundError:  # folded meanwhile, by a holder that honours the denylist
        return
    if all(denylist.is_forgotten(picture.path) for picture in pictures):
        sink = ParquetSink(output)
        if not sink.is_committed(manifest):
            report = BatchReport(manifest, 0, Counter(), 0, 0, _NO_MODEL, None)
            sink.commit(manifest, Result(OUTCOMES.empty_table(), datetime.now(UTC), report))
    erase_in(output, name, denylist)


def erase_in_request(output: Folder, name: str, denylist: Denylist) -> None:
    """Take the lines of forgotten pictures out of a request, which keeps its id; one that loses all is dropped."""
    erase_in(output, name, denylist)
    with suppress(NotFoundError):  # taken in meanwhile, by a holder that honours the denylist
        if not output.read(name).strip():
            output.delete(name)
