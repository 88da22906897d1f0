"""Joins rows whose features are near each other: all pairs of them, or those of one camera within a time.

Exact. Of all pairs, blocks are compared by one product of matrices of short forms (see `vectors`), and only pairs that
can be near are looked at whole. Pairs in one group already are passed over, as joining them again changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming.search.groups import Groups, Places
from streaming.search.vectors import Vectors
from streaming.storage.ahead import ahead

_BLOCK = 512  # the products of two blocks, 1 MB, stay in the cache of a core
_PAIRS = 32_768  # looked at whole at once: of 200 components, 100 MB as they are computed
_SLACK = np.float32(1e-5)  # more than float32 loses in a sum of so few products


def join_near(vectors: Vectors, places: Places, within: float, groups: Groups) -> None:
    """Join the rows of all pairs of vectors whose distance is at most `within`. Takes the square of their number.

    Args:
        vectors: of rows.
        places: those among `vectors` that are compared.
        within: a cosine distance.
        groups: of rows, in which they are joined.
    """
    short = vectors.short[places]
    starts = range(0, len(places), _BLOCK)

    def compare(pair: tuple[int, int]) -> None:
        some, others = (slice(start, start + _BLOCK) for start in pair)
        if _are_one(groups, vectors.rows[places[some]], vectors.rows[places[others]]):
            return
        products = short[some] @ short[others].T
        [near] = np.nonzero((products >= np.float32(1 - within) - _SLACK).ravel())
        first, second = near // products.shape[1] + pair[0], near % products.shape[1] + pair[1]
        if pair[0] == pair[1]:
            ordered = first < second
            first, second = first[ordered], second[ordered]
        if len(first) > _PAIRS:  # of few groups, then: join each row to its nearest, and most pairs are passed over
            if pair[0] == pair[1]:
                np.fill_diagonal(products, -1)
            best = products.argmax(axis=0) + pair[0]
            _join(vectors, places[best], places[others], within, groups)
        for at in range(0, len(first), _PAIRS):
            _join(vectors, places[first[at : at + _PAIRS]], places[second[at : at + _PAIRS]], within, groups)

    pairs = ((start, other) for start in starts for other in starts if other >= start)
    for _ in ahead(compare, pairs, len(os.sched_getaffinity(0))):
        pass


@dataclass(frozen=True, eq=False)
class Clock:
    """The times at which pictures were captured.

    Attributes:
        series: (n,) int64, a number for each camera; times of different series cannot be compared.
        times: (n,) int64, microseconds.
        longest: within which two rows are of one burst, in microseconds.
    """

    series: NDArray[np.int64]
    times: NDArray[np.int64]
    longest: int


def join_bursts(vectors: Vectors, places: Places, clock: Clock, within: float, groups: Groups) -> None:
    """The same for those pairs that are of one burst, too; `clock` has the time of each of `places`."""
    order = np.lexsort((clock.times, clock.series))
    places, series, times = places[order], clock.series[order], clock.times[order]
    for step in range(1, len(places)):
        [first] = np.nonzero((series[step:] == series[:-step]) & (times[step:] - times[:-step] <= clock.longest))
        if not len(first):
            return
        for at in range(0, len(first), _PAIRS):
            some = first[at : at + _PAIRS]
            _join(vectors, places[some], places[some + step], within, groups)


def _join(vectors: Vectors, some: Places, others: Places, within: float, groups: Groups) -> None:
    apart = groups.roots(vectors.rows[some]) != groups.roots(vectors.rows[others])
    some, others = some[apart], others[apart]
    near = vectors.distances(some, others) <= within
    groups.join(vectors.rows[some[near]], vectors.rows[others[near]])


def _are_one(groups: Groups, some: Places, others: Places) -> bool:
    """Whether all of these rows are in one group already."""
    roots = groups.roots(np.concatenate([some, others]))
    return bool((roots == roots[0]).all())
