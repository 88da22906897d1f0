"""Finds new pictures by scanning the input, and appends them to the manifest log.

The manifest is the record that a picture was seen: pictures in no manifest are found again by the next look.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Protocol, Self

from conf.backoff import LONGEST_PAUSE, pauses
from conf.errors import AppError, InputError, TransientError
from streaming.discovery.left_out import LeftOut
from streaming.discovery.settling import Settling
from streaming.output.inbox import Inbox
from streaming.output.manifest_log import ManifestLog
from streaming.output.places import Input
from streaming.storage.folder import StoredPicture
from streaming.storage.names import explain_ignored

_PAGE = 1000
_FIRST = 2000
"""The most pictures in the first manifest of a look, so that a backlog has its first rows soon."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """The result of one look at the input.

    Attributes:
        listed: all pictures.
        found: new and requested pictures, which are in manifests now.
        unsettled: new pictures that may still be being written, left for a later look.
        seconds: that it took.
        whole: whether it saw the whole input; False if it was broken off.
    """

    listed: int
    found: int
    unsettled: int
    seconds: float = 0.0
    whole: bool = True


class Discoverer(Protocol):
    """Finds pictures: those that are there, or as they arrive."""

    def has_new(self) -> bool:
        """Whether there is a new picture now, settled or not, or one is requested.

        Raises:
            InputError: the input cannot be one.
        """

    def explain_none(self) -> str:
        """The reason why `has_new` found nothing, for people."""

    def catch_up(self, max_pictures: int) -> Look:
        """Append manifests of what is there now, of at most `max_pictures` each."""

    def follow(self, max_pictures: int, interval: timedelta, leave: threading.Event) -> None:
        """Append manifests until `leave` is set.

        Args:
            max_pictures: the most in one manifest.
            interval: the longest that a picture waits for its manifest to fill.
            leave: set to end it.
        """


class ListingDiscoverer:
    """Finds pictures by listing the whole input at each look.

    A new local file is taken by the first look that finds it unchanged for at least `settle`.

    Attributes:
        left_out: counts and logs the entries that are left out.
    """

    def __init__(
        self,
        source: Input,
        log: ManifestLog,
        inbox: Inbox,
        settle: timedelta,
        on_look: Callable[[Look], None] = lambda look: None,
    ) -> None:
        self._source = source
        self._log = log
        self._inbox = inbox
        self._settle = settle.total_seconds()
        self._settling = Settling(self._settle)
        self._on_look = on_look
        self.left_out = LeftOut(log.output)

    def has_new(self) -> bool:
        """Whether the input holds a new picture, settled or not, or one is requested.

        Raises:
            InputError: the input holds no pictures at all.
        """
        if not self._inbox.is_empty():
            return True
        empty = True
        self._begin_look()
        for page, since in self._pages():
            empty = False
            if unknown := self._log.unknown(page):
                self._settling.settled(unknown, since)  # files that the next look finds unchanged have settled
                self._settling.break_off_look()
                return True
        self._end_look()
        if empty:
            raise InputError(
                f"{self._source.root}: there are no pictures in this folder; check --input"
                f"{explain_ignored(self.left_out.ignored)}"
            )
        return False

    def explain_none(self) -> str:
        """The reason why `has_new` found nothing."""
        return f"every picture in {self._source.root} is in {self._log.output.root} already"

    def look(self, max_pictures: int, leave: threading.Event | None = None) -> Look:
        """List the input once and append manifests of new and requested pictures, of at most `max_pictures` each.

        It is broken off when `leave` is set: a listing of millions takes minutes.

        Raises:
            InputError: a local input cannot be listed.
            StorageError: S3 refused, or a manifest cannot be written.
        """
        started = time.monotonic()
        listed = unsettled = 0
        whole = True
        found = self._inbox.take_in_if_due(max_pictures)
        filling: list[StoredPicture] = []
        most = min(_FIRST, max_pictures)
        self._begin_look()
        for page, since in self._pages():
            unknown = self._log.unknown(page)
            settled = self._settling.settled(unknown, since)
            listed += len(page)
            unsettled += len(unknown) - len(settled)
            found += len(settled)
            filling += settled
            while len(filling) >= most:
                self._log.append(filling[:most])
                del filling[:most]
                most = max_pictures
            if leave and leave.is_set():
                whole = False
                break
        if filling:
            self._log.append(filling)
        look = Look(listed, found, unsettled, time.monotonic() - started, whole)
        if whole:
            self._end_look()
            self._on_look(look)
        else:
            self._settling.break_off_look()
        return look

    def catch_up(self, max_pictures: int) -> Look:
        """Look once, and again for a short while if there are files that may still be being written."""
        latest = self.look(max_pictures)
        found = latest.found
        give_up = time.monotonic() + 5 * self._settle
        while latest.unsettled and time.monotonic() < give_up:
            time.sleep(min(self._settle / 4, self._settling.seconds_left()))
            latest = self.look(max_pictures)
            found += latest.found
        return replace(latest, found=found)

    def follow(self, max_pictures: int, interval: timedelta, leave: threading.Event) -> None:
        """Look once per interval until `leave` is set. Transient failures are retried with exponential backoff."""
        pause = interval.total_seconds()
        slow = False
        rests = None
        while not leave.is_set():
            started = time.monotonic()
            try:
                took = self._look_twice_if_need_be(max_pictures, pause, leave)
            except (InputError, TransientError) as error:
                rests = rests or pauses(max(pause, 1.0), max(pause, LONGEST_PAUSE))
                rest = next(rests)
                _logger.warning("cannot look for new pictures, trying again in %.0fs: %s", rest, error)
                leave.wait(rest)
                continue
            rests = None
            if took > max(pause, 1.0) and not slow:
                slow = True
                _logger.warning(
                    "listing the input takes %.1fs, longer than the interval of %gs: new pictures wait that long. "
                    "A longer interval, or an input with fewer old pictures, costs less",
                    took,
                    pause,
                )
            # A short pause even at interval 0: listing without end would take a core from the workers.
            leave.wait(max(pause - (time.monotonic() - started), 0.02, min(took, 1.0)))

    def _look_twice_if_need_be(self, max_pictures: int, interval: float, leave: threading.Event) -> float:
        """Look, and within a long interval again as soon as new files can have settled; returns the longer look."""
        look = self.look(max_pictures, leave)
        rest = self._settling.seconds_left()
        if not look.unsettled or look.seconds + rest >= interval or leave.wait(rest):
            return look.seconds
        return max(look.seconds, self.look(max_pictures, leave).seconds)

    def _begin_look(self) -> None:
        self._settling.begin_look()
        self.left_out.begin_look()

    def _end_look(self) -> None:
        self._settling.end_look()
        self.left_out.end_look()

    def _pages(self) -> Iterator[tuple[list[StoredPicture], float]]:
        """The pages of a listing, each with the monotonic time before it was listed."""
        pictures = self._source.pictures(self.left_out)
        since = time.monotonic()
        while page := list(islice(pictures, _PAGE)):
            yield page, since
            since = time.monotonic()


class DiscoveryThread:
    """Runs a discoverer beside the query while the context is entered.

    Attributes:
        failure: the exception that ended it, if any.
    """

    def __init__(self, discoverer: Discoverer, max_pictures: int, interval: timedelta) -> None:
        self.failure: BaseException | None = None
        self._leave = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(discoverer, max_pictures, interval), name="discovery", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the discoverer, and wait for the page that it lists, or for the manifest that it writes."""
        self._leave.set()
        self._thread.join()

    def _run(self, discoverer: Discoverer, max_pictures: int, interval: timedelta) -> None:
        try:
            discoverer.follow(max_pictures, interval, self._leave)
        except BaseException as error:
            self.failure = error
            if not isinstance(error, AppError):
                _logger.debug("discovery failed", exc_info=error)
