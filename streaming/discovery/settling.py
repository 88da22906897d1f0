"""Tells complete files from those that may still be being written.

A file has settled when its length and times were the same in two looks that are at least `seconds` apart by this
process's own monotonic clock; the clock of the file's server does not matter. At the first look, a file that was last
touched more than a minute ago needs no second look, so that a backlog is not delayed; here the two clocks may differ by
that minute. Files that appear later always need two looks, whatever their times say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from streaming.storage.folder import StoredPicture

PAST_SECONDS = 60


class Settling:
    """The files that have not settled: 16 bytes of hash and a time for each that the last look found.

    Args:
        seconds: the least time between the two looks; 0 takes every file at once.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first_seen: dict[bytes, float] = {}
        self._seen_now: dict[bytes, float] = {}
        self._looked = False

    def settled(self, pictures: Sequence[StoredPicture], listed_since: float) -> list[StoredPicture]:
        """Those pictures of the present look that are complete.

        Args:
            pictures: listed pictures that are in no manifest.
            listed_since: `time.monotonic()` before they were listed.
        """
        listed_at = time.monotonic()
        return [picture for picture in pictures if self._is_settled(picture, listed_since, listed_at)]

    def _is_settled(self, picture: StoredPicture, since: float, until: float) -> bool:
        if not self._seconds or picture.appears_whole:
            return True
        if not self._looked and picture.is_of_the_past(PAST_SECONDS + self._seconds):
            return True
        state = picture.state
        first_seen = self._first_seen.get(state, until)
        if since - first_seen >= self._seconds:
            return True
        self._seen_now[state] = first_seen
        return False

    def begin_look(self) -> None:
        """Begin a look; call it before the input is listed."""
        self._seen_now = {}

    def end_look(self) -> None:
        """End a look, after the whole input was listed; drop files that are gone, changed, or in a manifest."""
        self._first_seen = self._seen_now
        self._looked = True

    def break_off_look(self) -> None:
        """End a look after only a part of the input was listed; drops nothing."""
        self._first_seen |= self._seen_now

    def seconds_left(self) -> float:
        """The time until the first of the files that the last look found can have settled."""
        return max(0.0, min(self._first_seen.values(), default=0) + self._seconds - time.monotonic())
