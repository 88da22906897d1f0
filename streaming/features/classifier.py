"""Multinomial logistic regression on the components of a picture: its likeliest label, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming.features.arrays import pack, unpack


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted classifier of c labels on k components.

    Attributes:
        labels: c of them.
        coefficients: (c, k) float64.
        intercepts: (c,) float64.
    """

    labels: tuple[str, ...]
    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]

    def apply(self, projected: NDArray[np.float32]) -> tuple[str, float]:
        """The likeliest label of one picture, and its share in the softmax over all labels.

        One picture at a time, so that it gives the same bits alone or among others.

        Args:
            projected: (k,) float32, from `Projection.apply`.
        """
        scores = self.coefficients @ projected.astype(np.float64) + self.intercepts
        likeliest = int(scores.argmax())
        return self.labels[likeliest], float(1 / np.exp(scores - scores[likeliest]).sum())

    def to_bytes(self) -> bytes:
        """The classifier as the bytes of an npz file."""
        return pack(labels=np.array(self.labels), coefficients=self.coefficients, intercepts=self.intercepts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Classifier:
        """The inverse of `to_bytes`, bit for bit.

        Raises:
            BundleError: `data` was not written by `to_bytes`.
        """
        labels, coefficients, intercepts = unpack(data, "labels", "coefficients", "intercepts")
        return cls(tuple(labels.tolist()), coefficients, intercepts)
