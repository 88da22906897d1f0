"""Retries: requests, OUTPUT/_requests/<retry>.json, to featurize pictures in quarantine again.

A retry is the only request for pictures that are known already. The holder of the lease turns it into one manifest,
whose id ends with the retry's, and deletes the request last:

1. the manifest is appended; its pictures are featurized, and are rows of its own two files;
2. their old rows are taken out of the quarantine files in which they were;
3. the request is deleted.

After a kill at any step, the next holder finishes the rest. A reader may see a picture in both tables between the
commit of the manifest and the second step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import AlreadyExistsError, ConflictError, NotFoundError, OutputError
from streaming.output.decision import QUARANTINE_TABLE
from streaming.output.manifests import RETRY, from_json_lines, table_file, to_json_lines
from streaming.output.requests import all_ids, request_file
from streaming.storage.damaged import naming
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.parquet import as_parquet, footer_of, rows_in


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A picture, and the manifest whose quarantine file has its row."""

    picture: StoredPicture
    manifest: str


def create_retry(output: Folder, quarantined: Sequence[Quarantined]) -> str:
    """Ask for pictures, durably; returns the retry's id: a hash of the rows, so that asking twice is asking once."""
    ordered = sorted(quarantined, key=lambda row: (row.manifest, row.picture.path))
    rows = "\n".join(f"{row.manifest} {row.picture.path}" for row in ordered)
    retry = hashlib.sha256(rows.encode()).hexdigest()[:32] + RETRY
    lines = (to_json_lines([row.picture], quarantined=row.manifest) for row in ordered)
    with suppress(AlreadyExistsError):
        output.create(request_file(retry), b"".join(lines))
    return retry


def read_retry(output: Folder, retry: str) -> list[Quarantined]:
    """The pictures of a retry.

    Raises:
        NotFoundError: the retry is done, or was deleted by hand.
        OutputError: its file was not written by `create_retry`.
    """
    data = output.read(request_file(retry))
    try:
        manifests = [json.loads(line)["quarantined"] for line in data.splitlines()]
        return [Quarantined(picture, one) for picture, one in zip(from_json_lines(data), manifests, strict=True)]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{output.path(request_file(retry))} is not a request; delete it") from error


def retry_ids(output: Folder) -> list[str]:
    """The ids of the retries that are not finished."""
    return [request for request in all_ids(output) if request.endswith(RETRY)]


def remove_rows(output: Folder, manifest: str, paths: Sequence[str]) -> None:
    """Take pictures out of the quarantine file of a manifest.

    The file is replaced, not deleted, even if no row is left: a reader that has listed the files still finds it.
    """
    name = table_file(QUARANTINE_TABLE, manifest)
    while True:
        try:
            data, tag = output.read_tagged(name)
        except NotFoundError:
            return
        with naming(output.path(name)):
            rows = rows_in(data)
        left = rows.filter(pc.invert(pc.is_in(rows.column("path"), pa.array(paths, pa.string()))))
        if len(left) == len(rows):
            return
        with suppress(ConflictError):  # another process has taken rows out meanwhile: look again
            output.replace(name, as_parquet(left, footer_of(data)), tag)
            return
