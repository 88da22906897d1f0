"""Mergeable statistics of features: their number, mean and scatter, in one pass over pieces in any order.

BLAS does the work. In a worker process it should have one thread, because Spark runs as many workers as there are
cores (conf.spark.session sets OPENBLAS_NUM_THREADS=1 for executors).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.errors import InputError
from streaming.features.arrays import pack, unpack

_BLOCK = 2000
"""Rows that are converted to float64 at a time: 20 MB of 1280 features. Blocks of 512 rows take a fifth longer."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics of n pictures with d features each that StandardScaler and PCA need.

    Merging is commutative and associative up to rounding. A feature that is constant over all pictures has a scatter
    of exactly 0, however it was split into pieces, so that it can be told from one that varies a little.

    Attributes:
        count: n.
        mean: (d,) float64.
        scatter: (d, d) float64, the sum over all pictures of the outer product of (x - mean) with itself.
    """

    count: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def empty(cls) -> Statistics:
        """The statistics of no pictures: d is 0, and they merge with statistics of any d."""
        return cls(0, np.zeros(0), np.zeros((0, 0)))

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Statistics:
        """The statistics of one piece, in two passes: the mean, then the scatter around it.

        float64 holds sums of 2^29 equal float32 values without rounding, hence the exact 0 of a constant feature.

        Args:
            features: (n, d) float32.

        Raises:
            InputError: if a feature is NaN or infinite.
        """
        if not len(features):
            return cls.empty()
        _check_finite(features)
        mean = features.mean(axis=0, dtype=np.float64)
        scatter = np.zeros((len(mean), len(mean)))
        for start in range(0, len(features), _BLOCK):
            centred = features[start : start + _BLOCK] - mean
            scatter += centred.T @ centred  # numpy sees that this is symmetric and computes one half
        return cls(len(features), mean, scatter)

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of the pictures of both.

        Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979),
        equations 1.1, for several variables at once.
        """
        if not self.count:
            return other
        if not other.count:
            return self
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        delta *= np.sqrt(self.count * other.count / count)
        scatter = np.outer(delta, delta)
        scatter += self.scatter
        scatter += other.scatter
        return Statistics(count, mean, scatter)

    def to_bytes(self) -> bytes:
        """The bytes of an npz file."""
        return pack(count=self.count, mean=self.mean, scatter=self.scatter)

    @classmethod
    def from_bytes(cls, data: bytes) -> Statistics:
        """The inverse of `to_bytes`, bit for bit.

        Raises:
            BundleError: `data` was not written by `to_bytes`.
        """
        count, mean, scatter = unpack(data, "count", "mean", "scatter")
        return cls(int(count), mean, scatter)


def fold_batch(batch: pa.RecordBatch, column: str = "features") -> Statistics:
    """The statistics of a column of features, read where Arrow has them.

    Args:
        batch: rows where `column` is null are left out: rejected pictures.
        column: of type list<float32>, each list of the same length.

    Raises:
        InputError: if a feature is NaN or infinite.
    """
    rows = batch.column(column)
    count = len(rows) - rows.null_count
    return Statistics.of(rows.flatten().to_numpy().reshape(count, -1)) if count else Statistics.empty()


def merge_all(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of the pictures of all parts; no more than two of them need to be in memory."""
    return reduce(Statistics.merge, parts, Statistics.empty())


def _check_finite(features: NDArray[np.float32]) -> None:
    finite = np.isfinite(features)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"feature {column} of a picture is {features[row, column]}, and nothing can be fitted to it; "
            "check the backbone's weights"
        )
