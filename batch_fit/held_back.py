"""The held-out pictures of a fit: a tenth, on which a model that has not seen them is measured.

The measured model is fitted without them; the model that is served is then fitted on all pictures, so holding out
costs nothing. Whether a picture is held out depends on its path alone, so it is held out in every fit. The bundle keeps
the held-out features for the next fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch_fit.pca import fit_pca
from batch_fit.statistics import Statistics
from conf.errors import BundleError, InputError, SettingsError
from streaming.features.projection import Projection
from streaming.features.schema import FEATURE_COUNT
from streaming.registry.bundle import HELD_BACK, STATISTICS, Bundle, HeldBackFigures
from streaming.storage.folder import IDENTITY_BYTES
from streaming.storage.identities import Identities
from streaming.storage.parquet import as_parquet, rows_in

MOST_HELD_BACK = 2000
"""The most pictures that are held out, those with the smallest identities: 10 MB of features."""

_ONE_IN = 10
_SCHEMA = pa.schema(
    [
        pa.field("identity", pa.binary(IDENTITY_BYTES), nullable=False),
        pa.field("features", pa.list_(pa.field("element", pa.float32(), nullable=False), FEATURE_COUNT)),
    ]
)


def is_held_back(identity: bytes) -> bool:
    """Whether a picture is held out, unless there are too many."""
    # By the last bytes, because the first ones decide which pictures a sample of the input has.
    return int.from_bytes(identity[-4:]) % _ONE_IN == 0


def last_held_back(identities: Identities) -> bytes:
    """The largest of the identities that are held out, as `is_held_back` says; empty if there is none."""
    ends = identities.ordered.view(np.uint8).reshape(-1, IDENTITY_BYTES)[:, -4:]
    held_back = np.ascontiguousarray(ends).view(">u4").ravel() % _ONE_IN == 0
    return Identities(identities.ordered[held_back]).smallest(MOST_HELD_BACK).last()


@dataclass(frozen=True, eq=False)
class HeldBack:
    """Held-out pictures.

    Attributes:
        identities: (m,) in ascending order.
        features: (m, d) float32.
    """

    identities: list[bytes]
    features: NDArray[np.float32]

    @classmethod
    def of(cls, features: dict[bytes, NDArray[np.float32]]) -> HeldBack:
        """Held-out pictures from features by identity."""
        identities = sorted(features)
        rows = [features[identity] for identity in identities]
        return cls(identities, np.array(rows, np.float32).reshape(len(rows), FEATURE_COUNT))

    def by_identity(self) -> dict[bytes, NDArray[np.float32]]:
        """The features by identity."""
        return dict(zip(self.identities, self.features, strict=True))

    def to_bytes(self) -> bytes:
        """The bytes of a Parquet file."""
        features = pa.FixedSizeListArray.from_arrays(pa.array(self.features.ravel()), type=_SCHEMA.field(1).type)
        return as_parquet(pa.table([pa.array(self.identities, _SCHEMA.field(0).type), features], _SCHEMA))

    @classmethod
    def from_bytes(cls, data: bytes) -> HeldBack:
        """The inverse of `to_bytes`, bit for bit.

        Raises:
            BundleError: `data` was not written by `to_bytes`.
        """
        try:
            table = rows_in(data).cast(_SCHEMA).combine_chunks()
        except (pa.ArrowException, ValueError) as error:  # the latter of other columns
            raise BundleError(f"the held-out pictures cannot be read: {error}") from error
        features = pc.list_flatten(table.column("features")).to_numpy().reshape(len(table), FEATURE_COUNT)
        return cls(table.column("identity").to_pylist(), features)


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence that a model is fitted to: the held-out pictures, and the statistics of all others."""

    others: Statistics
    held_back: HeldBack

    @classmethod
    def nothing(cls) -> Evidence:
        """The evidence of no pictures."""
        return cls(Statistics.empty(), HeldBack.of({}))

    @classmethod
    def of_bundle(cls, model: Bundle) -> Evidence:
        """The evidence that a model was fitted to."""
        held_back = HeldBack.from_bytes(model.file(HELD_BACK)) if HELD_BACK in model.manifest.files else HeldBack.of({})
        return cls(Statistics.from_bytes(model.file(STATISTICS)), held_back)

    @cached_property
    def statistics(self) -> Statistics:
        """The statistics of all pictures."""
        return self.others.merge(Statistics.of(self.held_back.features))

    def merge(self, other: Evidence) -> Evidence:
        """The evidence of both, whose pictures are disjoint; held-out ones beyond `MOST_HELD_BACK` join the others."""
        features = self.held_back.by_identity() | other.held_back.by_identity()
        both = HeldBack.of(features)
        kept = HeldBack(both.identities[:MOST_HELD_BACK], both.features[:MOST_HELD_BACK])
        others = self.others.merge(other.others).merge(Statistics.of(both.features[MOST_HELD_BACK:]))
        return Evidence(others, kept)

    def figures(self, k: int) -> HeldBackFigures | None:
        """The figures of a model of `k` components, fitted to the others, on the held-out pictures.

        None if there are too few pictures for that.
        """
        projection = self.without_held_back(k)
        if projection is None or not self.held_back.identities:
            return None
        errors, lengths = measure_errors(projection, self.held_back.features)
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


def measure_errors(
    projection: Projection, features: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
    """The share of the pictures' variance that their components keep, at most 1."""
    return float(1 - errors.sum() / lengths.sum())
