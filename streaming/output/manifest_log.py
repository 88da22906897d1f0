"""Appends to the manifest log, and keeps each picture in one manifest only.

Only the holder of the lease appends, except for a former holder that was paused past its lease between checking it and
writing. Such a manifest is recognised because this process did not write it, and is withdrawn if it repeats a picture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, datetime

import pyarrow as pa

from conf.backoff import pauses
from conf.errors import StorageError, TransientError
from streaming.features.schema import as_table
from streaming.lease.denylist import Denylist
from streaming.lease.tenure import Tenure
from streaming.output.decision import withdraw
from streaming.output.known import KnownPictures
from streaming.output.manifests import RETRY, append_manifest, manifest_ids, read_manifest
from streaming.output.requests import announce_withdrawal
from streaming.output.retries import retry_ids
from streaming.output.tables import unfinished
from streaming.storage.folder import Folder, StoredPicture

_logger = logging.getLogger(__name__)


def withdraw_repeating(tenure: Tenure) -> KnownPictures:
    """Read the known pictures, and withdraw undecided manifests that repeat a picture of another; for the start."""
    output = tenure.output
    while True:
        known = KnownPictures(output)
        waiting = unfinished(output)
        repeating, retried = _repeating(output, known, waiting), _repeated_retries(output, waiting)
        if not repeating and not retried:
            return known
        # A manifest that was decided meanwhile stays, and others may repeat it now: look again.
        with tenure.writing() as denylist:
            for manifest in repeating:
                _withdraw(tenure, manifest, _allowed(read_manifest(output, manifest), denylist))
            for manifest in retried:
                _withdraw(tenure, manifest, [])  # the retry has its own request


def _repeating(output: Folder, known: KnownPictures, waiting: Sequence[str]) -> list[str]:
    """Those of `waiting` that list a picture of another manifest that is decided, or earlier."""
    decided_again = (manifest for manifest in known.repeating if manifest not in waiting)
    repeated = {picture.identity for manifest in decided_again for picture in read_manifest(output, manifest)}
    return [
        manifest
        for manifest in waiting
        if manifest in known.repeating or (repeated and _holds_one_of(output, manifest, repeated))
    ]


def _holds_one_of(output: Folder, manifest: str, identities: AbstractSet[bytes]) -> bool:
    """Whether a manifest lists one of these pictures; False for a retry, whose purpose that is."""
    return not manifest.endswith(RETRY) and any(
        picture.identity in identities for picture in read_manifest(output, manifest)
    )


def _repeated_retries(output: Folder, waiting: Sequence[str]) -> list[str]:
    """Undecided manifests of retries that are done or have another manifest: a former holder appended them."""
    manifests = [manifest for manifest in manifest_ids(output) if manifest.endswith(RETRY)]
    asked = {*retry_ids(output)} if manifests else set()
    repeated = []
    for manifest in sorted(manifests, key=lambda one: (one in waiting, one)):
        retry = manifest.partition("-")[2]
        if manifest in waiting and retry not in asked:
            repeated.append(manifest)
        asked.discard(retry)
    return repeated


def _withdraw(tenure: Tenure, manifest: str, pictures: Sequence[StoredPicture]) -> bool:
    """Request pictures, and withdraw their manifest unless it was decided meanwhile; whether it is withdrawn now.

    Two holders of the lease may meet two manifests that repeat each other. Were each to withdraw another, both would
    be gone. So a withdrawal is announced before the lease is confirmed: the next holder begins by carrying it out.
    """
    announce_withdrawal(tenure.output, manifest, pictures)
    tenure.confirm()
    withdrawn = withdraw(tenure.output, manifest)
    if withdrawn:
        _logger.warning("manifest %s repeats pictures: withdrew it, requested what only it lists", manifest)
    return withdrawn


def _allowed(pictures: Sequence[StoredPicture], denylist: Denylist) -> list[StoredPicture]:
    return [picture for picture in pictures if not denylist.is_forgotten(picture.path)]


class ManifestLog:
    """Turns new pictures into manifests, and remembers them; nothing else adds to the known pictures.

    Attributes:
        output: has the log.
        added: how many manifests were added since the start.
    """

    def __init__(self, tenure: Tenure, known: KnownPictures) -> None:
        self.output = tenure.output
        self._tenure = tenure
        self._known = known
        self._expected = {*known.manifests}
        self.added = 0
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def append_unknown(self, pictures: Sequence[StoredPicture], max_pictures: int) -> int:
        """Write those that no manifest holds yet into manifests of at most `max_pictures`; returns how many."""
        unknown = self.unknown(pictures)
        for start in range(0, len(unknown), max_pictures):
            self.append(unknown[start : start + max_pictures])
        return len(unknown)

    def unknown(self, pictures: Sequence[StoredPicture]) -> list[StoredPicture]:
        """Those pictures that no manifest holds yet, and that the denylist allows."""
        with self._lock, self._tenure.writing() as denylist:
            return _allowed(self._known.unknown(pictures), denylist)

    def latest(self) -> str:
        """The latest manifest in the log; empty if there is none."""
        with self._lock:
            return max(self._expected, default="")

    def await_next_after(self, manifest: str, gives_up: Callable[[], bool]) -> str | None:
        """The manifest that was appended after this one, as soon as there is one; None once the caller gives up.

        `gives_up` is asked each time that a manifest is appended or `wake` is called.
        """

        def find() -> str | None:
            return min((other for other in self._expected if other > manifest), default=None)

        with self._changed:
            self._changed.wait_for(lambda: gives_up() or find())
            return None if gives_up() else find()

    def wake(self) -> None:
        """Have `await_next_after` ask whether its caller gives up."""
        with self._changed:
            self._changed.notify_all()

    def read(self, manifest: str) -> pa.Table:
        """The pictures of a manifest without forgotten ones, as `schema.PICTURES`."""
        with self._tenure.writing() as denylist:
            return denylist.without(as_table(read_manifest(self.output, manifest)))

    def forget_folded(self) -> None:
        """Drop manifests from memory that are no longer in the log."""
        with self._lock:
            self._expected &= {*manifest_ids(self.output)}

    def admit(self, manifest: str) -> bool:
        """Whether a manifest may be featurized: this process wrote it, or it repeats nothing; else it is withdrawn."""
        with self._lock, self._tenure.writing() as denylist:
            if manifest not in self._expected:
                if manifest.endswith(RETRY):  # the retry's manifest of this process has the same pictures, or will
                    return not _withdraw(self._tenure, manifest, [])
                pictures = read_manifest(self.output, manifest)
                unknown = self._known.unknown(pictures)
                if len(unknown) < len(pictures) and _withdraw(self._tenure, manifest, _allowed(pictures, denylist)):
                    return False
                self._known.add(unknown)
                self._expect(manifest)
            return True

    def append(self, pictures: Sequence[StoredPicture]) -> None:
        """Write a manifest, durably; transient failures of the store are retried with exponential backoff.

        Raises:
            StorageError: the manifest cannot be written: a permanent failure, or `Tenure.stop` was set meanwhile.
            LeaseLostError: the right to write was lost.
        """
        with self._lock, self._tenure.writing() as denylist:
            if pictures := _allowed(self._known.unknown(pictures), denylist):
                self._expect(self._append(pictures, datetime.now(UTC)))
                self._known.add(pictures)

    @contextmanager
    def writing(self) -> Iterator[Denylist]:
        """`Tenure.writing`, during which no other thread appends."""
        with self._lock, self._tenure.writing() as denylist:
            yield denylist

    def find_retry(self, retry: str) -> str | None:
        """The manifest of a retry, if this or a former holder has appended it."""
        with self._lock:
            return next((manifest for manifest in self._expected if manifest.endswith(f"-{retry}")), None)

    def append_retry(self, retry: str, pictures: Sequence[StoredPicture]) -> str:
        """Append the manifest of a retry, whose pictures are known already; returns its id."""
        with self._lock:
            manifest = self._append(pictures, datetime.now(UTC), retry)
            self._expect(manifest)
            return manifest

    def _expect(self, manifest: str) -> None:
        self._expected.add(manifest)
        self.added += 1
        self._changed.notify_all()

    def _append(self, pictures: Sequence[StoredPicture], now: datetime, retry: str | None = None) -> str:
        rests = pauses()
        while True:
            try:
                with self._tenure.writing():
                    return append_manifest(self.output, pictures, now, retry)
            except TransientError as error:
                # It may have been written all the same, so no other may list its pictures: retry until it exists.
                rest = next(rests)
                _logger.warning("cannot append a manifest, trying again in %.0fs: %s", rest, error)
                if self._tenure.wait(rest):
                    raise StorageError(f"{error}; start again: pictures in no manifest are found again") from error
