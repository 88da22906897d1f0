"""The one who appends to the manifest log.

It owns that a picture is in one manifest only; it must not know how pictures are found. While a process holds the lease
it is the only one to append, but for one that was paused past its own lease between looking at it and writing: such a
manifest is found out by not being ours, and withdrawn if it repeats a picture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, datetime

import pyarrow as pa

from conf.errors import StorageError, TransientError
from conf.pauses import pauses
from streaming.features.denylist import Denylist
from streaming.features.schema import as_table
from streaming.features.stored import Folder, StoredPicture
from streaming.known import KnownPictures
from streaming.manifests import RETRY, append_manifest, manifest_ids, read_manifest, table_file, withdraw
from streaming.notice import Holding, hold_nothing
from streaming.requests import Requests, create_request
from streaming.retries import Retries, retry_ids
from streaming.sink import QUARANTINE_TABLE

_ATTEMPTS = 100

_logger = logging.getLogger(__name__)


def withdraw_repeating(output: Folder, unfinished: Sequence[str], hold: Holding = hold_nothing) -> KnownPictures:
    """Read what is known, and withdraw manifests of `unfinished` that repeat a picture of another; for the start."""
    known = KnownPictures(output)
    finished_again = (manifest for manifest in known.repeating if manifest not in unfinished)
    repeated = {picture.identity for manifest in finished_again for picture in read_manifest(output, manifest)}
    withdrawn = False
    for manifest in unfinished:
        if manifest in known.repeating or (repeated and _holds_one_of(output, manifest, repeated)):
            with hold() as denylist:
                _withdraw(output, manifest, denylist)
            withdrawn = True
    for repeated_retry in _repeated_retries(output, unfinished):
        _drop(output, repeated_retry)
    return KnownPictures(output) if withdrawn else known


def _holds_one_of(output: Folder, manifest: str, identities: AbstractSet[bytes]) -> bool:
    """Whether a manifest lists one of these pictures; not asked of a retry, whose purpose it is."""
    return not manifest.endswith(RETRY) and any(
        picture.identity in identities for picture in read_manifest(output, manifest)
    )


def _repeated_retries(output: Folder, unfinished: Sequence[str]) -> list[str]:
    """Unfinished manifests of retries that are done, or that have another manifest: they are a former holder's."""
    manifests = [manifest for manifest in manifest_ids(output) if manifest.endswith(RETRY)]
    waiting = {*retry_ids(output)} if manifests else set()
    repeated = []
    for manifest in sorted(manifests, key=lambda one: (one in unfinished, one)):
        retry = manifest.partition("-")[2]
        if manifest in unfinished and retry not in waiting:
            repeated.append(manifest)
        waiting.discard(retry)
    return repeated


def _withdraw(output: Folder, manifest: str, denylist: Denylist) -> None:
    _logger.warning("manifest %s repeats pictures of others: withdrawn, and what only it has is requested", manifest)
    if pictures := _allowed(read_manifest(output, manifest), denylist):
        create_request(output, pictures)
    _drop(output, manifest)


def _drop(output: Folder, manifest: str) -> None:
    """Withdraw an unfinished manifest, with what an attempt at it has perhaps left in quarantine."""
    output.delete(table_file(QUARANTINE_TABLE, manifest))
    withdraw(output, manifest)


def _allowed(pictures: Sequence[StoredPicture], denylist: Denylist) -> list[StoredPicture]:
    return [picture for picture in pictures if not denylist.is_forgotten(picture.path)]


class ManifestWriter:
    """Turns new pictures into manifests, and remembers them.

    Args:
        output: gets the manifests.
        known: what was seen; only this writer adds to it.
        may_append: called before each manifest; raises if this process has lost the right to write.
        hold: gives the denylist while something is written.
        stop: ends the waiting for a store that fails.

    Attributes:
        requests: what others asked for.
        retries: those of them that are for pictures in quarantine.
    """

    def __init__(
        self,
        output: Folder,
        known: KnownPictures,
        may_append: Callable[[], None],
        hold: Holding = hold_nothing,
        stop: threading.Event | None = None,
    ) -> None:
        self._output = output
        self._known = known
        self._may_append = may_append
        self._hold = hold
        self._stop = stop or threading.Event()
        self.retries = Retries(output, self._find_retry, self._append_retry, self._writing)
        self.requests = Requests(output, self.append_unknown, self.retries.take_in)
        self._expected = {*manifest_ids(output)}
        self._lock = threading.RLock()

    def append_unknown(self, pictures: Sequence[StoredPicture], max_pictures: int) -> int:
        """Write those that no manifest holds yet into manifests of at most `max_pictures`; returns how many."""
        unknown = self.unknown(pictures)
        for start in range(0, len(unknown), max_pictures):
            self.append(unknown[start : start + max_pictures])
        return len(unknown)

    def unknown(self, pictures: Sequence[StoredPicture]) -> list[StoredPicture]:
        """Those that no manifest holds yet, and that nobody wants forgotten."""
        with self._lock, self._hold() as denylist:
            return _allowed(self._known.unknown(pictures), denylist)

    def read_next(self, manifest: str) -> tuple[str, pa.Table] | None:
        """The manifest that was appended after one, with its pictures as `schema.PICTURES`, but for forgotten ones."""
        with self._lock:
            following = min((other for other in self._expected if other > manifest), default=None)
        if following is None:
            return None
        with self._hold() as denylist:
            return following, denylist.without(as_table(read_manifest(self._output, following)))

    def forget_folded(self) -> None:
        """Let go of manifests that are no longer in the log."""
        with self._lock:
            self._expected &= {*manifest_ids(self._output)}

    def admit(self, manifest: str) -> bool:
        """Whether the pictures of a manifest may be featurized: it is ours, or repeats none; otherwise withdraw it."""
        with self._lock, self._hold() as denylist:
            if manifest not in self._expected:
                if manifest.endswith(RETRY):  # ours has the same pictures, or will
                    _drop(self._output, manifest)
                    return False
                pictures = read_manifest(self._output, manifest)
                unknown = self._known.unknown(pictures)
                if len(unknown) < len(pictures):
                    _withdraw(self._output, manifest, denylist)
                    return False
                self._known.add(unknown)
                self._expected.add(manifest)
            return True

    def append(self, pictures: Sequence[StoredPicture]) -> None:
        """Write a manifest, durably; a store that fails for a while is waited for.

        Raises:
            StorageError: it cannot be written.
            LeaseLostError: the right to write was lost.
        """
        with self._lock, self._hold() as denylist:
            if pictures := _allowed(self._known.unknown(pictures), denylist):
                self._expected.add(self._append(pictures, datetime.now(UTC)))
                self._known.add(pictures)

    @contextmanager
    def _writing(self) -> Iterator[Denylist]:
        with self._lock, self._hold() as denylist:
            yield denylist

    def _find_retry(self, retry: str) -> str | None:
        with self._lock:
            return next((manifest for manifest in self._expected if manifest.endswith(f"-{retry}")), None)

    def _append_retry(self, retry: str, pictures: Sequence[StoredPicture]) -> str:
        with self._lock:
            manifest = self._append(pictures, datetime.now(UTC), retry)
            self._expected.add(manifest)
            return manifest

    def _append(self, pictures: Sequence[StoredPicture], now: datetime, retry: str | None = None) -> str:
        for attempt, rest in enumerate(pauses(), start=1):
            try:
                self._may_append()
                return append_manifest(self._output, pictures, now, retry)
            except TransientError as error:
                # It may be there all the same, so no other may list these pictures: this one is tried until it is.
                _logger.warning("cannot append a manifest, trying again in %.0fs: %s", rest, error)
                if attempt == _ATTEMPTS or self._stop.wait(rest):
                    raise StorageError(f"{error}; start again: what is in no manifest is found anew") from error
        raise AssertionError
