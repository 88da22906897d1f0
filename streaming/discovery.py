"""Finds pictures that were not seen before and appends them to the manifest log.

It owns when a picture counts as found; it must not know what happens to it afterwards. The manifest is the record that
a picture was seen: what is not in a manifest is found again at the next look.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from conf.errors import AppError, InputError, StorageError, TransientError
from streaming.features.stored import Folder, OnSkip, StoredPicture
from streaming.known import KnownPictures
from streaming.manifests import append_manifest
from streaming.requests import Requests

_APPEND_ATTEMPTS = 100
_LONGEST_REST = 60.0
_PAGE = 1000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What one look at the input found.

    Attributes:
        listed: pictures there.
        found: new ones, which are in manifests now; with those that were requested.
        unsettled: new ones that may still be being written, left for a later look.
    """

    listed: int
    found: int
    unsettled: int


class ListingDiscoverer:
    """Lists the whole input at each look.

    Args:
        source: canonical path of the input, for messages.
        list_pictures: lists the input.
        output: gets the manifests.
        known: what was seen; only this discoverer adds to it.
        settle: a local file that changed less than this ago is left for a later look.
        may_append: called before each manifest; raises if this process has lost the right to write.
    """

    def __init__(
        self,
        source: str,
        list_pictures: Callable[[OnSkip], Iterator[StoredPicture]],
        output: Folder,
        known: KnownPictures,
        settle: timedelta,
        may_append: Callable[[], None],
    ) -> None:
        self._source = source
        self._list_pictures = list_pictures
        self._output = output
        self._known = known
        self._settle = settle.total_seconds()
        self._may_append = may_append
        self._skipped: set[str] = set()
        self._requests = Requests(output, known, self._append)

    def has_new(self) -> bool:
        """Whether the input holds a picture that was not seen before, settled or not, or one is requested.

        Raises:
            InputError: it holds none at all.
        """
        if self._requests.are_pending():
            return True
        empty = True
        for page in self._pages():
            empty = False
            if self._known.unknown(page):
                return True
        if empty:
            raise InputError(f"{self._source}: there are no pictures in this folder; check --input")
        return False

    def look(self, max_pictures: int) -> Look:
        """List the input once and append manifests of what is new or requested, of at most `max_pictures` each.

        Raises:
            InputError: the input cannot be listed.
            StorageError: a manifest cannot be written.
        """
        listed = unsettled = 0
        found = self._requests.take_in(max_pictures)
        filling: list[StoredPicture] = []
        for page in self._pages():
            unknown = self._known.unknown(page)
            settled = [picture for picture in unknown if picture.is_settled(self._settle)]
            listed += len(page)
            unsettled += len(unknown) - len(settled)
            found += len(settled)
            filling += settled
            while len(filling) >= max_pictures:
                self._append(filling[:max_pictures])
                del filling[:max_pictures]
        if filling:
            self._append(filling)
        return Look(listed, found, unsettled)

    def look_until_settled(self, max_pictures: int) -> Look:
        """Look, and look again for the files that may still have been being written, for a short while."""
        latest = self.look(max_pictures)
        found = latest.found
        give_up = time.monotonic() + 5 * self._settle
        while latest.unsettled and time.monotonic() < give_up:
            time.sleep(self._settle / 4)
            latest = self.look(max_pictures)
            found += latest.found
        return Look(latest.listed, found, latest.unsettled)

    def follow(self, max_pictures: int, interval: timedelta, leave: threading.Event) -> None:
        """Look once per interval until told to leave. An input that cannot be listed for a while is waited for."""
        pause = interval.total_seconds()
        slow = False
        failed = 0
        while not leave.is_set():
            started = time.monotonic()
            try:
                self.look(max_pictures)
            except (InputError, TransientError) as error:
                failed += 1
                rest = min(max(pause, 1.0) * 2 ** min(failed - 1, 6), max(pause, _LONGEST_REST))
                _logger.warning("cannot look for new pictures, trying again in %gs: %s", rest, error)
                leave.wait(rest)
                continue
            failed = 0
            took = time.monotonic() - started
            if took > max(pause, 1.0) and not slow:
                slow = True
                _logger.warning(
                    "listing the input takes %.1fs, longer than the interval of %gs: new pictures wait that long. "
                    "A longer interval, or an input with fewer old pictures, costs less",
                    took,
                    pause,
                )
            # A short rest even at interval 0: listing without end would take a core from the workers.
            leave.wait(max(pause - took, 0.02, min(took, 1.0)))

    def _pages(self) -> Iterator[list[StoredPicture]]:
        pictures = self._list_pictures(self._report_skipped)
        while page := list(islice(pictures, _PAGE)):
            yield page

    def _append(self, pictures: Sequence[StoredPicture]) -> None:
        now = datetime.now(UTC)
        for attempt in itertools.count():
            self._may_append()
            try:
                append_manifest(self._output, pictures, now)
            except TransientError as error:
                # It may be there all the same, so no other may list these pictures: this one is tried until it is.
                if attempt == _APPEND_ATTEMPTS:
                    raise StorageError(f"{error}; start again: what is in no manifest is found anew") from error
                rest = min(2.0**attempt, _LONGEST_REST)
                _logger.warning("cannot append a manifest, trying again in %gs: %s", rest, error)
                time.sleep(rest)
            else:
                break
        self._known.add(pictures)

    def _report_skipped(self, path: str, why: str) -> None:
        if path not in self._skipped:
            self._skipped.add(path)
            _logger.warning("left out: %r %s", path, why)


class DiscoveryThread:
    """Runs a discoverer beside the query, and keeps what made it fail."""

    def __init__(self, discoverer: ListingDiscoverer, max_pictures: int, interval: timedelta) -> None:
        self.failure: BaseException | None = None
        self._leave = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(discoverer, max_pictures, interval), name="discovery", daemon=True
        )
        self._thread.start()

    def _run(self, discoverer: ListingDiscoverer, max_pictures: int, interval: timedelta) -> None:
        try:
            discoverer.follow(max_pictures, interval, self._leave)
        except BaseException as error:
            self.failure = error
            if not isinstance(error, AppError):
                _logger.debug("discovery failed", exc_info=error)

    def stop(self) -> None:
        """Let the present look end."""
        self._leave.set()
        self._thread.join()
