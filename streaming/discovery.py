"""Finds pictures that were not seen before and appends them to the manifest log.

It owns when a picture counts as found; it must not know what happens to it afterwards. The manifest is the record that
a picture was seen: what is not in a manifest is found again at the next look.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Protocol

from conf.errors import AppError, InputError, TransientError
from conf.pauses import LONGEST_PAUSE, pauses
from streaming.features.stored import OnSkip, StoredPicture
from streaming.manifest_writer import ManifestWriter

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


class Discoverer(Protocol):
    """Finds pictures as they arrive."""

    def follow(self, max_pictures: int, interval: timedelta, leave: threading.Event) -> None:
        """Append manifests, of at most `max_pictures` each, until told to leave.

        Args:
            max_pictures: the most in one manifest.
            interval: the longest that a picture waits for its manifest to fill.
            leave: set to end it.
        """


class ListingDiscoverer:
    """Lists the whole input at each look.

    Args:
        source: canonical path of the input, for messages.
        list_pictures: lists the input.
        writer: gets what is new.
        settle: a local file that changed less than this ago is left for a later look.
    """

    def __init__(
        self,
        source: str,
        list_pictures: Callable[[OnSkip], Iterator[StoredPicture]],
        writer: ManifestWriter,
        settle: timedelta,
    ) -> None:
        self._source = source
        self._list_pictures = list_pictures
        self._writer = writer
        self._settle = settle.total_seconds()
        self._skipped: set[str] = set()

    def has_new(self) -> bool:
        """Whether the input holds a picture that was not seen before, settled or not, or one is requested.

        Raises:
            InputError: it holds none at all.
        """
        if self._writer.requests.are_pending():
            return True
        empty = True
        for page in self._pages():
            empty = False
            if self._writer.unknown(page):
                return True
        if empty:
            raise InputError(f"{self._source}: there are no pictures in this folder; check --input")
        return False

    def look(self, max_pictures: int) -> Look:
        """List the input once and append manifests of what is new or requested, of at most `max_pictures` each.

        Raises:
            InputError: a local input cannot be listed.
            StorageError: S3 refused, or a manifest cannot be written.
        """
        listed = unsettled = 0
        found = self._writer.requests.take_in(max_pictures)
        filling: list[StoredPicture] = []
        for page in self._pages():
            unknown = self._writer.unknown(page)
            settled = [picture for picture in unknown if picture.is_settled(self._settle)]
            listed += len(page)
            unsettled += len(unknown) - len(settled)
            found += len(settled)
            filling += settled
            while len(filling) >= max_pictures:
                self._writer.append(filling[:max_pictures])
                del filling[:max_pictures]
        if filling:
            self._writer.append(filling)
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
        rests = None
        while not leave.is_set():
            started = time.monotonic()
            try:
                self.look(max_pictures)
            except (InputError, TransientError) as error:
                rests = rests or pauses(max(pause, 1.0), max(pause, LONGEST_PAUSE))
                rest = next(rests)
                _logger.warning("cannot look for new pictures, trying again in %.0fs: %s", rest, error)
                leave.wait(rest)
                continue
            rests = None
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

    def _report_skipped(self, path: str, why: str) -> None:
        if path not in self._skipped:
            self._skipped.add(path)
            _logger.warning("left out: %r %s", path, why)


class DiscoveryThread:
    """Runs a discoverer beside the query, and keeps what made it fail."""

    def __init__(self, discoverer: Discoverer, max_pictures: int, interval: timedelta) -> None:
        self.failure: BaseException | None = None
        self._leave = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(discoverer, max_pictures, interval), name="discovery", daemon=True
        )
        self._thread.start()

    def _run(self, discoverer: Discoverer, max_pictures: int, interval: timedelta) -> None:
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
