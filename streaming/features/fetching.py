"""Reads pictures ahead of their use, so many at once and no more, and does not wait for ever for any of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from functools import partial

from streaming.features.imaging import Rejected
from streaming.features.reading import PictureReader
from streaming.features.reasons import Reason

_MAX_BYTES_AHEAD = 64 * 2**20
_LATE_SECONDS = 10.0
_LONGEST_READ = 600.0
"""Seconds; longer than all attempts at a store that fails, after which a read ends by itself."""


class Fetcher:
    """Reads pictures in threads, except those of more than `max_bytes`. Not thread-safe itself."""

    def __init__(self, read: PictureReader, max_bytes: int, at_once: int) -> None:
        self._read = read
        self._max_bytes = max_bytes
        self._at_once = at_once
        self._threads = self._new_threads()

    def __call__(self, paths: Sequence[str], lengths: Sequence[int]) -> Iterator[Callable[[], bytes]]:
        """A function for each picture in turn, which gives its bytes, or raises `Rejected` or an error of its place."""
        waiting = deque(zip(paths, lengths, strict=True))
        under_way: deque[tuple[Callable[[], bytes], int]] = deque()
        ahead = 0
        while waiting or under_way:
            while waiting and len(under_way) < self._at_once:
                path, length = waiting[0]
                to_read = length if length <= self._max_bytes else 0
                if under_way and ahead + to_read > _MAX_BYTES_AHEAD:
                    break
                waiting.popleft()
                ahead += to_read
                under_way.append((self._begin(path, length), to_read))
            content, taken = under_way.popleft()
            ahead -= taken
            yield content

    def _begin(self, path: str, length: int) -> Callable[[], bytes]:
        if length > self._max_bytes:
            return partial(_refuse, length, self._max_bytes)
        return partial(self._await, path, self._threads.submit(self._read, path))

    def _await(self, path: str, content: Future[bytes]) -> bytes:
        """The bytes of a picture once they are read.

        A read that does not end, as from a file server that hangs, is left to its thread. If other pictures can be
        read meanwhile, the fault is this picture's; if not, it is the store's, and the wait goes on.
        """
        while True:
            try:
                return content.result(_LONGEST_READ)
            except TimeoutError:
                stuck, self._threads = self._threads, self._new_threads()
                stuck.shutdown(wait=False, cancel_futures=True)
                if self._can_read_others(path):
                    return _read_late(content)
            except CancelledError:  # it waited behind one that is stuck
                content = self._threads.submit(self._read, path)

    def _can_read_others(self, path: str) -> bool:
        """Try several at once, as others may hang, too."""
        threads = ThreadPoolExecutor(thread_name_prefix="probe")
        try:
            others = threads.submit(self._read.others, path).result(_LONGEST_READ)
            tried = [threads.submit(self._read.can_read, other) for other in others]
            return any(trial.result() for trial in as_completed(tried, _LONGEST_READ))
        except TimeoutError:
            return False
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _new_threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._at_once, thread_name_prefix="fetch")


def _read_late(content: Future[bytes]) -> bytes:
    """The bytes of a picture although others were faster: the store may have come back for all of them just now."""
    try:
        return content.result(_LATE_SECONDS)
    except TimeoutError:
        raise Rejected(
            Reason.UNREADABLE, f"reading it has not ended after {_LONGEST_READ:g}s; others can be read"
        ) from None


def _refuse(length: int, max_bytes: int) -> bytes:
    raise Rejected(Reason.TOO_MANY_BYTES, f"{length} bytes; imaging.max_bytes allows {max_bytes}")
