"""Groups of rows that are connected by pairs: single linkage, by a union-find over arrays."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


class Groups:
    """The groups of `count` rows, each alone at first. Thread-safe."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)  # of a smaller number, or the row itself if it is the root of its group
        self._lock = threading.Lock()

    def roots(self, rows: Places) -> Places:
        """One row for each of `rows`, the same for all rows of a group. Joins under way may not show yet."""
        found: Places = self._parent[rows]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                return found
            found = above

    def join(self, some: Places, others: Places) -> None:
        """Make one group of the groups of each two rows."""
        with self._lock:
            while True:
                roots, other_roots = self.roots(some), self.roots(others)
                apart = roots != other_roots
                if not apart.any():
                    break
                low, high = np.minimum(roots, other_roots)[apart], np.maximum(roots, other_roots)[apart]
                self._parent[high] = low  # of several for one root, the last stays; the next turn sees to the others
            self._parent[some] = self._parent[others] = roots

    def several(self) -> Iterator[Places]:
        """The groups of two rows or more; the rows of each in order."""
        roots = self.roots(np.arange(len(self._parent)))
        order = np.argsort(roots, kind="stable")
        starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
        for group in np.split(order, starts[1:]):
            if len(group) > 1:
                yield group
