"""Fits StandardScaler and PCA to statistics, and chooses the number, the order and the sign of the components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batch_fit.statistics import Statistics
from conf.errors import InputError, SettingsError
from conf.plural import plural
from streaming.features.projection import Projection
from streaming.features.schema import FEATURE_COUNT


def fit_pca(statistics: Statistics, k: int | None, variance: float | None) -> Projection:
    """Fit what `pyspark.ml.feature` fits with StandardScaler(withMean=True, withStd=True) and PCA.

    That is: the sample standard deviation (n - 1); a constant feature counts as 0 everywhere; components are the
    eigenvectors of the correlation matrix by descending eigenvalue, and explained variance is the share of an
    eigenvalue in the sum of all. Unlike Spark's, the sign of a component is determined: of its entries, the one of
    the largest magnitude is positive (the first of them, if several are equal).

    Args:
        statistics: of at least two pictures, with d features.
        k: the number of components; None, if `variance` decides.
        variance: take the fewest components that explain this share of the variance, above 0 and at most 1; None, if
            `k` decides.

    Returns:
        The projection with `explained_variance` of all d components, descending, of sum 1.

    Raises:
        InputError: the pictures are too few or all the same.
        SettingsError: `k` is larger than the number of directions in which the pictures vary, or not exactly one of
            `k` and `variance` is given.
    """
    if (k is None) == (variance is None):
        raise SettingsError(f"fit.k: {k} and fit.variance: {variance}: one of them decides; give either")
    if statistics.count < 2:  # noqa: PLR2004 - a standard deviation needs two
        raise InputError(f"{statistics.count or 'no'} picture could be used, and a fit needs at least two; add some")
    std = np.sqrt(statistics.scatter.diagonal() / (statistics.count - 1))
    if not std.any():
        raise InputError(
            f"all {statistics.count} pictures have the same features; give pictures that differ from one another"
        )
    eigenvalues, eigenvectors = np.linalg.eigh(_correlation(statistics.scatter))
    eigenvalues, eigenvectors = np.clip(eigenvalues[::-1], 0, None), eigenvectors[:, ::-1]
    explained = eigenvalues / eigenvalues.sum()
    rank = _rank(eigenvalues, statistics.count)
    if variance is not None:
        k = min(int(np.searchsorted(np.cumsum(explained), variance)) + 1, rank)
    elif k is not None and k > rank:
        raise SettingsError(
            f"fit.k: {k} components, but these {statistics.count} pictures vary in {plural(rank, 'direction')} only; "
            f"give --k {rank} or less, or more pictures"
        )
    return Projection(statistics.mean, std, _with_sign(eigenvectors[:, :k]), explained)


def check_k(k: int | None, pictures: int) -> None:
    """Refuse more components than so many pictures can have, before their features are computed.

    Raises:
        SettingsError: `k` is at least the number of pictures, or larger than that of features.
    """
    most = min(pictures - 1, FEATURE_COUNT)
    if k is not None and 0 < most < k:
        raise SettingsError(
            f"fit.k: {k} components, but {plural(pictures, 'picture')} of {FEATURE_COUNT} features vary in "
            f"{plural(most, 'direction')} at most; give --k {most} or less"
            f"{', or more pictures' if most < FEATURE_COUNT else ''}"
        )


def _correlation(scatter: NDArray[np.float64]) -> NDArray[np.float64]:
    """The covariance of the standardised features: rows and columns of constant features are 0."""
    length = np.sqrt(scatter.diagonal())
    factor = np.divide(1.0, length, out=np.zeros_like(length), where=length != 0)
    return scatter * factor[:, None] * factor


def _rank(eigenvalues: NDArray[np.float64], count: int) -> int:
    """The number of directions in which the pictures vary, with the tolerance of numpy.linalg.matrix_rank."""
    tolerance = eigenvalues[0] * len(eigenvalues) * np.finfo(np.float64).eps
    return min(int((eigenvalues > tolerance).sum()), count - 1)


def _with_sign(components: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.abs(components).argmax(axis=0)
    signs: NDArray[np.float64] = np.sign(components[largest, np.arange(components.shape[1])])
    return components * signs
