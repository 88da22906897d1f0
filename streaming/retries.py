"""Retries: pictures in quarantine that somebody wants to see featurized once more.

It owns the requests for them, OUTPUT/_requests/<retry>.json, and what becomes of these; it must not know who asks. A
retry is the only request for pictures that are known already. The holder of the lease turns it into one manifest, whose
id ends with the retry's, and deletes the request last:

1. the manifest is appended; its pictures are featurized, and are rows of its own two files;
2. their old rows are taken out of the quarantine files in which they were;
3. the request is deleted.

A kill after any of these is finished by the next holder, and a reader may see a picture in both tables between the
commit of the manifest and the second step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf.errors import AlreadyExistsError, ConflictError, NotFoundError, OutputError
from streaming.features.parquet import as_parquet
from streaming.features.stored import Folder, StoredPicture
from streaming.manifests import RETRY, decode, encode, table_file
from streaming.notice import Holding
from streaming.requests import FOLDER, SUFFIX, all_ids
from streaming.sink import FEATURES_TABLE, QUARANTINE_TABLE

_AT_ONCE = 16  # each is a request of 30 ms on S3, and new pictures wait meanwhile

_logger = logging.getLogger(__name__)


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
    lines = (encode([row.picture], quarantined=row.manifest) for row in ordered)
    with suppress(AlreadyExistsError):
        output.create(_name(retry), b"".join(lines))
    return retry


def read_retry(output: Folder, retry: str) -> list[Quarantined]:
    """What was asked for.

    Raises:
        NotFoundError: it is done, or was deleted by a hand.
        OutputError: its file is none that `create_retry` wrote.
    """
    data = output.read(_name(retry))
    try:
        manifests = [json.loads(line)["quarantined"] for line in data.splitlines()]
        return [Quarantined(picture, one) for picture, one in zip(decode(data), manifests, strict=True)]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{output.path(_name(retry))} is no request; delete it") from error


def _name(retry: str) -> str:
    return f"{FOLDER}/{retry}{SUFFIX}"


def retry_ids(output: Folder) -> list[str]:
    """The ids of the retries that are not finished."""
    return [request for request in all_ids(output) if request.endswith(RETRY)]


class Retries:
    """The retries of an output, for the holder of its lease. Safe among threads.

    Args:
        output: has the requests, the log and the tables.
        find_manifest: the manifest of a retry, if this or a former holder has appended it.
        append: appends the manifest of a retry and returns its id.
        writing: see `notice.Holding`.
    """

    def __init__(
        self,
        output: Folder,
        find_manifest: Callable[[str], str | None],
        append: Callable[[str, Sequence[StoredPicture]], str],
        writing: Holding,
    ) -> None:
        self._output = output
        self._find_manifest = find_manifest
        self._append = append
        self._writing = writing
        self._manifests: dict[str, str] = {}
        self._pictures: dict[str, frozenset[bytes]] = {}
        self._under_way: set[bytes] = set()
        self._lock = threading.Lock()

    def take_in(self, retries: Sequence[str]) -> int:
        """Append the manifests of retries that have none yet, and settle those that are finished.

        Returns:
            The number of pictures in the new manifests.
        """
        with self._lock:
            waiting = [retry for retry in retries if not self._has_manifest(retry)]  # all before any is taken
            appended = sum(self._take(retry) for retry in waiting)
            oldest = next(iter(self._manifests.values()), None)
        if oldest and self._is_committed(oldest):  # on S3, one request where there is nothing to settle
            self.settle()
        return appended

    def settle(self) -> None:
        """Take the old rows of finished retries out of quarantine, and delete the requests."""
        with self._lock:
            for retry in retry_ids(self._output):
                self._has_manifest(retry)
            for retry, manifest in list(self._manifests.items()):
                if self._is_committed(manifest):
                    self._settle(retry)
                    _logger.info("retry %s is done, by manifest %s", retry, manifest)

    def _is_committed(self, manifest: str) -> bool:
        return self._output.exists(table_file(FEATURES_TABLE, manifest))

    def _has_manifest(self, retry: str) -> bool:
        """Whether its manifest was appended, by this holder or a former one; its end is waited for from now on."""
        if retry in self._manifests:
            return True
        manifest = self._find_manifest(retry)
        if manifest is None:
            return False
        with suppress(NotFoundError):
            self._await(retry, manifest, [row.picture for row in read_retry(self._output, retry)])
        return True

    def _await(self, retry: str, manifest: str, pictures: Sequence[StoredPicture]) -> None:
        self._manifests[retry] = manifest
        self._pictures[retry] = frozenset(picture.identity for picture in pictures)
        self._under_way |= self._pictures[retry]

    def _take(self, retry: str) -> int:
        if self._has_manifest(retry):
            return 0
        try:
            asked = read_retry(self._output, retry)
        except NotFoundError:
            return 0
        rows = self._still_quarantined(asked)
        with self._writing() as denylist:
            rows = [row for row in rows if not denylist.is_forgotten(row.picture.path)]
            if len(rows) == len(asked):
                pictures = [row.picture for row in rows]
                self._await(retry, self._append(retry, pictures), pictures)
                _logger.info("retry %s: %d pictures", retry, len(pictures))
                return len(pictures)
            # Others have asked for some of them, too.
            rest = create_retry(self._output, rows) if rows else None
            self._output.delete(_name(retry))
        return self._take(rest) if rest else 0

    def _still_quarantined(self, asked: Sequence[Quarantined]) -> list[Quarantined]:
        """Those whose rows are where they were, and that no other retry has."""
        manifests = sorted({row.manifest for row in asked})
        with ThreadPoolExecutor(_AT_ONCE) as readers:
            read = zip(manifests, readers.map(self._quarantined_paths, manifests), strict=True)
            there = {(manifest, path) for manifest, paths in read for path in paths}
        return [
            row
            for row in asked
            if (row.manifest, row.picture.path) in there and row.picture.identity not in self._under_way
        ]

    def _quarantined_paths(self, manifest: str) -> list[str]:
        try:
            data = self._output.read(table_file(QUARANTINE_TABLE, manifest))
        except NotFoundError:
            return []
        paths: list[str] = pq.read_table(pa.BufferReader(data), columns=["path"]).column("path").to_pylist()
        return paths

    def _settle(self, retry: str) -> None:
        with suppress(NotFoundError):
            paths = defaultdict(list)
            for row in read_retry(self._output, retry):
                paths[row.manifest].append(row.picture.path)
            with ThreadPoolExecutor(_AT_ONCE) as writers:
                list(writers.map(lambda one: remove_rows(self._output, *one), paths.items()))
            self._output.delete(_name(retry))
        del self._manifests[retry]
        self._under_way -= self._pictures.pop(retry)


def remove_rows(output: Folder, manifest: str, paths: Sequence[str]) -> None:
    """Take pictures out of the quarantine file of a manifest.

    It is replaced as long as there is one, also if no row is left: a reader that has listed the files still finds it.
    """
    name = table_file(QUARANTINE_TABLE, manifest)
    while True:
        try:
            data, tag = output.read_tagged(name)
        except NotFoundError:
            return
        rows = pq.read_table(pa.BufferReader(data))
        left = rows.filter(pc.invert(pc.is_in(rows.column("path"), pa.array(paths, pa.string()))))
        if len(left) == len(rows):
            return
        with suppress(ConflictError):  # somebody else has taken rows out meanwhile: look again
            output.replace(name, as_parquet(left), tag)
            return
