"""The manifest log: which pictures were seen, in immutable files under OUTPUT/_manifests.

A manifest is JSON lines, one picture a line, so that a person can read it with `less`. Its name begins with the time of
its writing, so that names sort by age.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

from conf.errors import AlreadyExistsError
from streaming.storage.ahead import ahead, reads_at_once
from streaming.storage.damaged import naming
from streaming.storage.folder import Folder, StoredPicture, files_ending

LOG_FOLDER = "_manifests"
SUFFIX = ".json"
RETRY = "-retry"
"""Ends the id of a manifest whose pictures are known already, and are to be featurized once more."""
SPARK_SCHEMA = "manifest STRING, path STRING, length LONG, modification_time TIMESTAMP, etag STRING"

_WITHDRAWN = f"{LOG_FOLDER}/_withdrawn-"
_MARK_SUFFIX = ".txt"
FOUND_AGAIN = "the pictures are found by the next listing, and with --discovery events by reconcile --enqueue"
"""What happens to those of a manifest that is deleted before it is done."""

_ABOUT = f"{LOG_FOLDER}/_about.txt"
_ABOUT_TEXT = b"""Each file here lists pictures that were seen; one file is one micro-batch of the stream.
Pictures whose file is deleted before it was finished are found again by a stream that lists its input;
with --discovery events, run reconcile --enqueue to find them.
"""


def prepare_log(output: Folder) -> None:
    """Make the folder of the log, which Spark wants to see before it holds a manifest."""
    if not is_log(output):
        with suppress(AlreadyExistsError):  # another start, at the same moment
            output.create(_ABOUT, _ABOUT_TEXT)


def is_log(output: Folder) -> bool:
    """Whether a stream has ever begun on an output."""
    return output.exists(_ABOUT)


def append_manifest(output: Folder, pictures: Sequence[StoredPicture], now: datetime, retry: str | None = None) -> str:
    """Write a manifest durably and return its id: the time, and a hash of what it lists or the id of the retry."""
    paths = "\n".join(picture.path for picture in pictures)
    digest = hashlib.sha256(paths.encode()).hexdigest()
    manifest = f"{now.astimezone(UTC):%Y%m%dT%H%M%S%fZ}-{retry or digest[:8]}"
    with suppress(AlreadyExistsError):  # the same pictures in the same microsecond: it is the same manifest
        output.create(manifest_name(manifest), to_json_lines(pictures, manifest=manifest))
    return manifest


def to_json_lines(pictures: Sequence[StoredPicture], **head: str) -> bytes:
    """Pictures as JSON lines, each of which begins with `head`."""
    lines = (
        json.dumps(
            {
                **head,
                "path": picture.path,
                "length": picture.length,
                "modification_time": _as_utc(picture.modification_time),
                "etag": picture.etag,
            }
        )
        for picture in pictures
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _as_utc(time: datetime) -> str:
    """In UTC, by isoformat: strftime writes the year 1 with one digit, which nobody can read back."""
    return f"{time.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def read_manifest(output: Folder, manifest: str) -> list[StoredPicture]:
    """The pictures of a manifest.

    Raises:
        NotFoundError: it is not in the log.
        OutputError: its file is damaged.
    """
    data = output.read(name := manifest_name(manifest))
    with naming(output.path(name), f"restore it; or delete it: {FOUND_AGAIN}"):
        return from_json_lines(data)


def read_manifests(output: Folder, ids: Iterable[str]) -> Iterator[tuple[str, list[StoredPicture]]]:
    """Manifests and their pictures, in order, while the next ones are read; raises what `read_manifest` does."""
    return ahead(partial(read_manifest, output), ids, reads_at_once(output.root))


def from_json_lines(data: bytes) -> list[StoredPicture]:
    """The pictures that `to_json_lines` was given."""
    lines = [json.loads(line) for line in data.splitlines()]
    return [
        StoredPicture(
            path=line["path"],
            length=line["length"],
            modification_time=datetime.fromisoformat(line["modification_time"]),
            etag=line["etag"],
        )
        for line in lines
    ]


def manifest_ids(output: Folder) -> list[str]:
    """The ids of the manifests in the log, oldest first."""
    names = files_ending(output, LOG_FOLDER, SUFFIX)
    return [name.removeprefix(f"{LOG_FOLDER}/").removesuffix(SUFFIX) for name in names]


def marked_withdrawn(output: Folder) -> list[str]:
    """The manifests of which release 0.1.0 noted in the log that they were withdrawn."""
    names = [name for name in output.names(LOG_FOLDER) if name.startswith(_WITHDRAWN)]
    return [name.removeprefix(_WITHDRAWN).removesuffix(_MARK_SUFFIX) for name in names]


def delete_mark(output: Folder, manifest: str) -> None:
    """Delete such a note."""
    output.delete(f"{_WITHDRAWN}{manifest}{_MARK_SUFFIX}")


def manifest_name(manifest: str) -> str:
    """The name of a manifest's file."""
    return f"{LOG_FOLDER}/{manifest}{SUFFIX}"


def written_at(manifest: str) -> datetime:
    """The time at which a manifest was written, from its id."""
    return datetime.strptime(manifest.partition("-")[0], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def table_file(table: str, manifest: str) -> str:
    """The name of the one file that a manifest has in a table: `features/date=2026-01-31/<id>.parquet`."""
    return f"{table}/date={written_at(manifest):%Y-%m-%d}/{manifest}.parquet"
