"""Forgetting in a registry: finds the models that were fitted with a picture, and erases it from their records.

A model's statistics and PCA are sums over all of its pictures, which only another fit can change: they stay. Data of a
single picture are erased: its identity in `pictures.parquet`, its held-out features in `held_back.parquet`, and the
whole report of a model that has the picture or names it, because a report shows single pictures, too.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from conf.errors import BundleError, ConflictError, NotFoundError
from streaming.lease.denylist import Denylist
from streaming.registry.bundle import HELD_BACK, IDENTITIES, MANIFEST, REPORT, BundleManifest, Revised, reseal
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.parquet import as_parquet, rows_in

_NAMED = re.compile(r"<(code|title)>(.*?)</\1>", re.DOTALL)
_NO_REPORT = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Report removed</title></head>
<body><p>The report of this model was removed, because it told of pictures that had to be forgotten.
Fit again to get a model and a report without them.</p></body></html>
"""


@dataclass(frozen=True)
class AffectedModel:
    """A model whose records must change: how many of its pictures are forgotten, and the new content of its files."""

    version: str
    pictures: int
    files: dict[str, Revised]


def find_models(models: Folder, denylist: Denylist, is_found: Callable[[bytes], bool]) -> Iterator[AffectedModel]:
    """The models whose records name forgotten pictures, or were being changed by a run that was killed.

    Records name pictures by identity, for which `is_found` decides, or by path in a report.
    """
    for manifest in Registry(models).versions():
        tags: dict[str, str] = {}
        pictures, count = _without(_read(models, manifest, IDENTITIES, tags), is_found)
        held_back, _ = _without(_read(models, manifest, HELD_BACK, tags), is_found)
        report = _read(models, manifest, REPORT, tags)
        shown = report is not None and any(
            denylist.is_forgotten(html.unescape(path)) for _, path in _NAMED.findall(report.decode())
        )
        files = {
            IDENTITIES: pictures,
            HELD_BACK: held_back,
            REPORT: _NO_REPORT if report and (count or shown) else report,
        }
        present = {name: Revised(data, tags[name]) for name, data in files.items() if data is not None}
        if count or shown or present.keys() - manifest.files.keys():
            yield AffectedModel(manifest.version, count, present)


def erase_in_model(models: Folder, affected: AffectedModel) -> None:
    """Replace the records of a model; its bundle stays complete at any time. A fit may delete the model meanwhile.

    Raises:
        ConflictError: another `forget` changes it, or has changed it since it was read; the next one finishes this.
    """
    try:
        reseal(models, affected.version, affected.files, affected.pictures)
    except (BundleError, ConflictError, NotFoundError):
        if models.exists(f"{affected.version}/{MANIFEST}"):
            raise


def _read(models: Folder, manifest: BundleManifest, name: str, tags: dict[str, str]) -> bytes | None:
    """The content of a file, whose tag is put into `tags`; None if there is no such file."""
    try:
        data, tags[name] = models.read_tagged(f"{manifest.version}/{name}")
    except NotFoundError:
        return None
    return data


def _without(data: bytes | None, is_found: Callable[[bytes], bool]) -> tuple[bytes | None, int]:
    """A Parquet file without the rows of identities that were found, and their number."""
    if data is None:
        return None, 0
    table = rows_in(data)
    keep = [not is_found(identity) for identity in table.column("identity").to_pylist()]
    if all(keep):
        return data, 0
    return as_parquet(table.filter(pa.array(keep, pa.bool_()))), keep.count(False)
