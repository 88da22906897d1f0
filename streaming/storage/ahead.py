"""Requests that are sent before their answers are needed, so many at once and no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def ahead(ask: Callable[[Item], Answer], items: Iterable[Item], at_once: int) -> Iterator[tuple[Item, Answer]]:
    """Each item with its answer, in order, while the next ones are asked for.

    Unlike `Executor.map`, it takes no more items, and keeps no more answers, than `at_once`: there may be millions.
    """
    waiting: deque[tuple[Item, Future[Answer]]] = deque()
    with ThreadPoolExecutor(at_once) as threads:
        for item in items:
            waiting.append((item, threads.submit(ask, item)))
            if len(waiting) > at_once:
                first, answer = waiting.popleft()
                yield first, answer.result()
        for item, answer in waiting:
            yield item, answer.result()
