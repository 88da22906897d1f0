"""Unit vectors of many rows: the first components in memory, all of them in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Self

import numpy as np
from numpy.typing import NDArray

from conf.errors import OutputError, StorageError
from streaming.search.groups import Places

_LEADING = 64
_ALL_IN_MEMORY = 96
"""With so many components or fewer, all of them are leading."""


class Vectors:
    """Vectors scaled to length 1, for cosine distances. Use it with `with`; the file is gone afterwards.

    A vector is kept in memory as its leading components, which have most of its length, and the length of the rest.
    The scalar product of two such short forms is at least that of the vectors (Cauchy and Schwarz), so that it tells
    which pairs can be near, in a third of the time.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._short: list[NDArray[np.float32]] = []
        self._rows: list[Places] = []
        self._k = 0

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(tempfile.TemporaryFile(prefix="picture-features-"))
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what found no room before finds none now
            self._stack.close()

    def add(self, vectors: NDArray[np.float32], rows: Places) -> None:
        """Add (n, k) vectors, and the rows of the table that they are of.

        Raises:
            OutputError: they are of another length than those before.
            StorageError: the folder of temporary files is full.
        """
        self._k = self._k or vectors.shape[1]
        if vectors.shape[1] != self._k:
            raise OutputError(
                f"rows of one model have features of {self._k} and of {vectors.shape[1]} numbers: a file of the "
                "table was changed; restore it from a copy"
            )
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        unit = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0).astype(np.float32)
        with _writing():
            self._file.write(unit.tobytes())
        leading = self._k if self._k <= _ALL_IN_MEMORY else _LEADING
        rest = np.linalg.norm(unit[:, leading:], axis=1, keepdims=True).astype(np.float32)
        self._short.append(np.hstack([unit[:, :leading], rest]))
        self._rows.append(rows)

    def finish(self) -> None:
        """Call it after the last `add`, of which there has to be one.

        Raises:
            StorageError: as `add`.
        """
        with _writing():
            self._file.flush()
        self.short = np.concatenate(self._short)
        """(n, m) float32, the short forms."""
        self.rows = np.concatenate(self._rows)
        """(n,) int64, the row of each vector."""
        self._short.clear()
        self._rows.clear()
        self._all = np.memmap(self._file, np.float32, "r", shape=(len(self.rows), self._k))

    def distances(self, some: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
        """The cosine distances of pairs of vectors; 1 where one of them is zero."""
        products = np.einsum("ij,ij->i", self._all[some], self._all[others], dtype=np.float64)
        distances: NDArray[np.float64] = np.clip(1 - products, 0, 2)
        return distances


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        raise StorageError(f"{folder}: {error.strerror}; free some space there, or set TMPDIR") from error
