"""The pictures that a fit holds back: a tenth, on which a model is measured that has not seen them.

It owns which pictures these are, how they are kept for the next fit, and what is measured on them; it must not know
what follows from the figures.

Nothing is lost by holding back. What is measured is a model fitted without them; the model that is served is then
fitted on all. Whether a picture is held back depends on its path alone, so it is held back in every fit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batch_fit.pca import fit_pca
from batch_fit.statistics import Statistics
from conf.errors import BundleError, InputError, SettingsError
from streaming.features.bundle import HELD_BACK, STATISTICS, Bundle, HeldBackFigures
from streaming.features.parquet import as_parquet
from streaming.features.projection import Projection
from streaming.features.schema import FEATURE_COUNT
from streaming.features.stored import IDENTITY_BYTES

MOST = 2000
"""No more are held back, those whose identities are the smallest: 10 MB of features."""

_ONE_IN = 10
_SCHEMA = pa.schema(
    [
        pa.field("identity", pa.binary(IDENTITY_BYTES), nullable=False),
        pa.field("features", pa.list_(pa.field("element", pa.float32(), nullable=False), FEATURE_COUNT)),
    ]
)


def is_held_back(identity: bytes) -> bool:
    """Whether a picture is one of the tenth."""
    # By the last bytes, because the first ones decide which pictures a sample of the input has.
    return int.from_bytes(identity[-4:]) % _ONE_IN == 0


def last_held_back(identities: Collection[bytes]) -> bytes:
    """The largest identity that is held back of these; empty if there is none."""
    return max(sorted(filter(is_held_back, identities))[:MOST], default=b"")


@dataclass(frozen=True, eq=False)
class HeldBack:
    """Pictures that are held back.

    Attributes:
        identities: (m,) in ascending order.
        features: (m, d) float32.
    """

    identities: list[bytes]
    features: NDArray[np.float32]

    @classmethod
    def of(cls, features: dict[bytes, NDArray[np.float32]]) -> HeldBack:
        """From features by identity."""
        identities = sorted(features)
        rows = [features[identity] for identity in identities]
        return cls(identities, np.array(rows, np.float32).reshape(len(rows), FEATURE_COUNT))

    def by_identity(self) -> dict[bytes, NDArray[np.float32]]:
        """The features by identity."""
        return dict(zip(self.identities, self.features, strict=True))

    def to_bytes(self) -> bytes:
        """As a Parquet file."""
        features = pa.FixedSizeListArray.from_arrays(pa.array(self.features.ravel()), type=_SCHEMA.field(1).type)
        return as_parquet(pa.table([pa.array(self.identities, _SCHEMA.field(0).type), features], _SCHEMA))

    @classmethod
    def from_bytes(cls, data: bytes) -> HeldBack:
        """The inverse of `to_bytes`, bit for bit.

        Raises:
            BundleError: if `data` is no such file.
        """
        try:
            table = pq.read_table(pa.BufferReader(data), schema=_SCHEMA).combine_chunks()
        except pa.ArrowException as error:
            raise BundleError(f"the pictures that were held back cannot be read: {error}") from error
        features = pc.list_flatten(table.column("features")).to_numpy().reshape(len(table), FEATURE_COUNT)
        return cls(table.column("identity").to_pylist(), features)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a fit knows of its pictures.

    Attributes:
        others: the statistics of those that are not held back.
        held_back: those that are.
    """

    others: Statistics
    held_back: HeldBack

    @classmethod
    def nothing(cls) -> Evidence:
        """Of no pictures."""
        return cls(Statistics.empty(), HeldBack.of({}))

    @classmethod
    def of_bundle(cls, model: Bundle) -> Evidence:
        """What a model was fitted to."""
        held_back = HeldBack.from_bytes(model.file(HELD_BACK)) if HELD_BACK in model.manifest.files else HeldBack.of({})
        return cls(Statistics.from_bytes(model.file(STATISTICS)), held_back)

    @cached_property
    def statistics(self) -> Statistics:
        """Of all pictures."""
        return self.others.merge(Statistics.of(self.held_back.features))

    def merge(self, other: Evidence) -> Evidence:
        """Of the pictures of both, which have none in common; what is too many to hold back joins the others."""
        features = self.held_back.by_identity() | other.held_back.by_identity()
        both = HeldBack.of(features)
        kept = HeldBack(both.identities[:MOST], both.features[:MOST])
        others = self.others.merge(other.others).merge(Statistics.of(both.features[MOST:]))
        return Evidence(others, kept)

    def figures(self, k: int) -> HeldBackFigures | None:
        """What a model of `k` components that is fitted to the others makes of the pictures held back.

        None if there are too few pictures for that.
        """
        projection = self.without_held_back(k)
        if projection is None or not self.held_back.identities:
            return None
        errors, lengths = measure(projection, self.held_back.features)
        if not lengths.sum():
            return None
        return HeldBackFigures(
            pictures=len(errors),
            variance_kept=kept_share(errors, lengths),
            error_p50=float(np.quantile(errors, 0.5)),
            error_p95=float(np.quantile(errors, 0.95)),
        )

    def without_held_back(self, k: int) -> Projection | None:
        """A model of `k` components that is fitted to the others; None if they are too few for that."""
        try:
            return fit_pca(self.others, k, None)
        except (InputError, SettingsError):
            return None


def measure(projection: Projection, features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The reconstruction error of each picture, and its squared length once standardised, both (m,).

    Args:
        projection: of d features.
        features: (m, d) float32.
    """
    standardised = (features - projection.mean) * projection.factor
    projected = standardised @ projection.components
    lengths = np.square(standardised).sum(axis=1)
    return np.maximum(lengths - np.square(projected).sum(axis=1), 0), lengths


def kept_share(errors: NDArray[np.float64], lengths: NDArray[np.float64]) -> float:
    """How much of the variance of pictures their components keep: at most 1."""
    return float(1 - errors.sum() / lengths.sum())
