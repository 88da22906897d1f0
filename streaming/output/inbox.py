"""The inbox: turns the requests and retries under OUTPUT/_requests into manifests, and closes finished retries."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from conf.errors import NotFoundError
from conf.plural import plural
from streaming.output.decision import QUARANTINE_TABLE, is_decided, read_decision
from streaming.output.manifest_log import ManifestLog
from streaming.output.manifests import RETRY, table_file
from streaming.output.requests import all_ids, delete_request, read_request
from streaming.output.retries import Quarantined, create_retry, read_retry, remove_rows, retry_ids
from streaming.storage.folder import StoredPicture
from streaming.storage.parquet import read_rows

_PAUSE_SECONDS = 10  # each look is a paid request on S3
_AT_ONCE = 16  # each is a request of 30 ms on S3, and new pictures wait meanwhile

_logger = logging.getLogger(__name__)


class Inbox:
    """Requests for pictures, and retries of pictures in quarantine, that other processes leave for the holder.

    Only the holder of the lease appends manifests. It turns each request into manifests once: after a kill in between,
    the pictures that are in manifests already are known and are skipped.
    """

    def __init__(self, log: ManifestLog) -> None:
        self._log = log
        self._retries = _Retries(log)
        self._next_look = 0.0

    def is_empty(self) -> bool:
        """Whether there are neither requests nor retries."""
        return not all_ids(self._log.output)

    def take_in_if_due(self, max_pictures: int) -> int:
        """`take_in`, if the last time was more than 10 s ago."""
        if time.monotonic() < self._next_look:
            return 0
        self._next_look = time.monotonic() + _PAUSE_SECONDS
        return self.take_in(max_pictures)

    def take_in(self, max_pictures: int) -> int:
        """Turn requests and retries into manifests, of at most `max_pictures` each, and delete the requests.

        Returns:
            The number of pictures that were not known before, or are retried.
        """
        requests = all_ids(self._log.output)
        retried = self._retries.take_in([request for request in requests if request.endswith(RETRY)])
        return retried + sum(self._take(request, max_pictures) for request in requests if not request.endswith(RETRY))

    def close_retries(self) -> None:
        """Take the old rows of finished retries out of quarantine, and delete the requests."""
        self._retries.close_finished()

    def _take(self, request: str, max_pictures: int) -> int:
        output = self._log.output
        try:
            requested = {picture.identity: picture for picture in read_request(output, request)}
        except NotFoundError:  # withdrawn by a person
            return 0
        new = self._log.append_unknown(list(requested.values()), max_pictures)
        delete_request(output, request)
        _logger.info("request %s: %s, %d of them new", request, plural(len(requested), "picture"), new)
        return new


class _Retries:
    """Takes in and closes retries. Thread-safe."""

    def __init__(self, log: ManifestLog) -> None:
        self._log = log
        self._output = log.output
        self._manifests: dict[str, str] = {}
        self._pictures: dict[str, frozenset[bytes]] = {}
        self._under_way: set[bytes] = set()
        self._lock = threading.Lock()

    def take_in(self, retries: Sequence[str]) -> int:
        """Append the manifests of retries that have none yet, and close those that are finished.

        Returns:
            The number of pictures in the new manifests.
        """
        with self._lock:
            waiting = [retry for retry in retries if not self._has_manifest(retry)]  # all before any is taken
            appended = sum(self._take(retry) for retry in waiting)
            oldest = next(iter(self._manifests.values()), None)
        if oldest and is_decided(self._output, oldest):  # on S3, one request where there is nothing to close
            self.close_finished()
        return appended

    def close_finished(self) -> None:
        """Take the old rows of finished retries out of quarantine, and delete the requests."""
        with self._lock:
            for retry in retry_ids(self._output):
                self._has_manifest(retry)
            for retry, manifest in list(self._manifests.items()):
                if is_decided(self._output, manifest) and not read_decision(self._output, manifest).withdrawn:
                    self._close(retry)
                    _logger.info("retry %s is done, by manifest %s", retry, manifest)

    def _has_manifest(self, retry: str) -> bool:
        """Whether a retry has a manifest, by this or a former holder; if so, `close_finished` waits for it."""
        if retry in self._manifests:
            return True
        manifest = self._log.find_retry(retry)
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
        with self._log.writing() as denylist:
            rows = [row for row in rows if not denylist.is_forgotten(row.picture.path)]
            if rows and len(rows) == len(asked):
                pictures = [row.picture for row in rows]
                self._await(retry, self._log.append_retry(retry, pictures), pictures)
                _logger.info("retry %s: %s", retry, plural(len(pictures), "picture"))
                return len(pictures)
            # The other pictures belong to another retry, have left quarantine, or are forgotten.
            rest = create_retry(self._output, rows) if rows else None
            delete_request(self._output, retry)
        return self._take(rest) if rest else 0

    def _still_quarantined(self, asked: Sequence[Quarantined]) -> list[Quarantined]:
        """Those pictures whose rows are still in quarantine, and that no other retry has."""
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
            rows = read_rows(self._output, table_file(QUARANTINE_TABLE, manifest), ["path"])
        except NotFoundError:
            return []
        paths: list[str] = rows.column("path").to_pylist()
        return paths

    def _close(self, retry: str) -> None:
        with suppress(NotFoundError):
            paths = defaultdict(list)
            for row in read_retry(self._output, retry):
                paths[row.manifest].append(row.picture.path)
            with ThreadPoolExecutor(_AT_ONCE) as writers:
                list(writers.map(lambda one: remove_rows(self._output, *one), paths.items()))
            delete_request(self._output, retry)
        del self._manifests[retry]
        self._under_way -= self._pictures.pop(retry)
