"""Requests that are sent before their answers are needed, so many at once and no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from streaming.storage.locations import is_on_s3

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def reads_at_once(root: str) -> int:
    """How many small files of a folder to read at once: a request to S3 takes 30 ms, in which others are answered."""
    return 16 if is_on_s3(root) else 4


def ahead(ask: Callable[[_Item], _Answer], items: Iterable[_Item], at_once: int) -> Iterator[tuple[_Item, _Answer]]:
    """Each item with its answer, in order, while the next ones are asked for.

    Unlike `Executor.map`, it takes no more items, and keeps no more answers, than `at_once`: there may be millions.
    """
    waiting: deque[tuple[_Item, Future[_Answer]]] = deque()
    with ThreadPoolExecutor(at_once) as threads:
        for item in items:
            waiting.append((item, threads.submit(ask, item)))
            if len(waiting) > at_once:
                first, answer = waiting.popleft()
                yield first, answer.result()
        for item, answer in waiting:
            yield item, answer.result()
