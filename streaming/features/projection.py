"""StandardScaler and PCA as one affine map, from raw features to components."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from streaming.features.arrays import pack, unpack

_ARRAYS = ("mean", "std", "components", "explained_variance")


@dataclass(frozen=True)
class Projection:
    """A fitted scaler and PCA.

    Attributes:
        mean: (d,) float64.
        std: (d,) float64, sample standard deviation; 0 for a constant feature.
        components: (d, k) float64, orthonormal columns.
        explained_variance: (min(d, n),) or (d,) float64, share of the variance of every component, descending.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    components: NDArray[np.float64]
    explained_variance: NDArray[np.float64]

    @property
    def k(self) -> int:
        """The number of components."""
        return int(self.components.shape[1])

    @cached_property
    def factor(self) -> NDArray[np.float64]:
        """(d,) float64: 1 / std, and 0 where std is 0, as Spark's StandardScalerModel has it."""
        return np.divide(1.0, self.std, out=np.zeros_like(self.std), where=self.std != 0)

    @cached_property
    def _rows(self) -> NDArray[np.float64]:
        """(k, d) float64: (P / sigma) transposed, so that each component is one contiguous row."""
        return np.ascontiguousarray((self.components * self.factor[:, None]).T)

    @cached_property
    def _offset(self) -> NDArray[np.float64]:
        return self._rows @ self.mean

    def apply(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """Project one picture's features: y = x (P / sigma) - (mu / sigma) P.

        One picture at a time, so that it gives the same bits alone or among others.

        Args:
            features: (d,) float32.

        Returns:
            (k,) float32, and the PCA reconstruction error |z|^2 - |y|^2 of the standardised z, clipped at 0.
        """
        wide = features.astype(np.float64)
        projected = self._rows @ wide - self._offset
        standardised = (wide - self.mean) * self.factor
        error = float(standardised @ standardised - projected @ projected)
        return projected.astype(np.float32), max(error, 0.0)

    def to_bytes(self) -> bytes:
        """The projection as the bytes of an npz file."""
        return pack(**{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def from_bytes(cls, data: bytes) -> Projection:
        """The inverse of `to_bytes`.

        Raises:
            BundleError: `data` was not written by `to_bytes`.
        """
        return cls(*unpack(data, *_ARRAYS))
