"""Statistics: the same whatever the pieces and their order, and exact where a textbook formula is not."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from batch_fit.statistics import _BLOCK, Statistics, fold_batch, merge_all
from conf.errors import BundleError, InputError
from streaming.features.schema import OUTCOMES

Features = NDArray[np.float32]

# Means up to 10^6 standard deviations: n * sum(x^2) - sum(x)^2 in float64 would leave 4 digits.
features_in_pieces = st.builds(
    lambda seed, sizes, width, mean: (
        list(np.split(sample(seed, sum(sizes), width, mean), np.cumsum(sizes[:-1]))),
        mean,
    ),
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    width=st.integers(1, 6),
    mean=st.sampled_from([0.0, 3.0, -1e3, 1e6]),
)


def sample(seed: int, count: int, width: int, mean: float = 0.0) -> Features:
    return np.random.default_rng(seed).normal(mean, size=(count, width)).astype(np.float32)


def assert_same(one: Statistics, other: Statistics, mean: float) -> None:
    """Equal to 1e-12 of what the features' own size allows: float64 cannot place a mean better than its last digit."""
    assert one.count == other.count
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12, atol=1e-12)
    tolerance = 1e-12 * max(1.0, abs(mean) * 1e-2) * max(1.0, float(np.trace(one.scatter)))
    np.testing.assert_allclose(one.scatter, other.scatter, rtol=0, atol=tolerance)


def exactly(features: Features) -> Statistics:
    """What the definition gives, with sums that do not round."""
    columns = [[float(value) for value in column] for column in features.T]
    mean = [math.fsum(column) / len(column) for column in columns]
    centred = [[value - centre for value in column] for column, centre in zip(columns, mean, strict=True)]
    scatter = [[math.fsum(map(float.__mul__, a, b)) for b in centred] for a in centred]
    return Statistics(len(features), np.array(mean), np.array(scatter))


@given(features_in_pieces)
def test_pieces_give_what_the_definition_gives(drawn: tuple[list[Features], float]) -> None:
    pieces, mean = drawn
    expected = exactly(np.concatenate(pieces))
    assert_same(merge_all(map(Statistics.of, pieces)), expected, mean)
    assert_same(Statistics.of(np.concatenate(pieces)), expected, mean)


@given(features_in_pieces, st.randoms(use_true_random=False))
def test_neither_order_nor_grouping_matters(drawn: tuple[list[Features], float], chance: random.Random) -> None:
    pieces, mean = drawn
    parts = [Statistics.of(piece) for piece in pieces]
    expected = merge_all(parts)
    while len(parts) > 1:
        one, other = (parts.pop(chance.randrange(len(parts))) for _ in range(2))
        parts.append(one.merge(other))
    assert_same(parts[0], expected, mean)


def test_many_rows_are_folded_in_blocks_without_a_seam() -> None:
    features = sample(1, 2 * _BLOCK + 7, 5, 3.0)
    assert_same(Statistics.of(features), exactly(features), 3.0)


@given(
    value=st.floats(width=32, allow_nan=False, allow_infinity=False),
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=4),
)
@settings(max_examples=30)
def test_a_constant_feature_does_not_vary_by_a_rounding_error(value: float, sizes: Sequence[int]) -> None:
    pieces = [sample(size, size, 2) for size in sizes]
    for piece in pieces:
        piece[:, 0] = value
    statistics = merge_all(map(Statistics.of, pieces))
    assert statistics.mean[0] == np.float32(value)
    assert not statistics.scatter[0].any()


def test_scatter_is_symmetric_to_the_bit() -> None:
    statistics = merge_all(Statistics.of(sample(seed, 90, 30, 5.0)) for seed in range(4))
    np.testing.assert_array_equal(statistics.scatter, statistics.scatter.T)


def test_no_pictures_change_nothing() -> None:
    some = Statistics.of(sample(3, 9, 4))
    assert some.merge(Statistics.empty()) is some
    assert Statistics.empty().merge(some) is some
    assert Statistics.of(np.empty((0, 4), np.float32)).count == merge_all([]).count == 0


def test_bytes_bring_back_every_bit() -> None:
    for statistics in (Statistics.of(sample(5, 20, 7, 1e6)), Statistics.empty()):
        again = Statistics.from_bytes(statistics.to_bytes())
        assert again.count == statistics.count
        np.testing.assert_array_equal(again.mean, statistics.mean)
        np.testing.assert_array_equal(again.scatter, statistics.scatter)


def test_other_bytes_are_refused() -> None:
    data = Statistics.of(sample(5, 20, 7)).to_bytes()
    for broken in (b"", b"PK\3\4", data[:-100], pickled()):
        with pytest.raises(BundleError, match="cannot be read"):
            Statistics.from_bytes(broken)


def pickled() -> bytes:
    return np.array([{"code": "run me"}], dtype=object).dumps()


@pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_a_value_that_is_not_finite_is_named(value: float, name: str) -> None:
    features = sample(0, 30, 8)
    features[17, 5] = value
    with pytest.raises(InputError, match=f"feature 5 of a picture is {name}"):
        Statistics.of(features)


def batch_of(rows: list[Features | None]) -> pa.RecordBatch:
    field = OUTCOMES.field("features")
    return pa.RecordBatch.from_arrays([pa.array(rows, field.type)], schema=pa.schema([field]))


@pytest.mark.parametrize("missing", [(), (0,), (3, 4, 9), range(10)])
def test_rejected_pictures_are_left_out(missing: Sequence[int]) -> None:
    features = sample(7, 10, 6)
    folded = fold_batch(batch_of([None if row in missing else features[row] for row in range(10)]))
    expected = Statistics.of(np.delete(features, list(missing), axis=0))
    assert folded.count == expected.count == 10 - len(missing)
    np.testing.assert_array_equal(folded.mean, expected.mean)
    np.testing.assert_array_equal(folded.scatter, expected.scatter)


def test_a_slice_of_a_batch_counts_alone() -> None:
    features = sample(8, 12, 3)
    parts = itertools.pairwise([0, 5, 5, 12])
    folded = merge_all(fold_batch(batch_of(list(features)).slice(start, end - start)) for start, end in parts)
    assert_same(folded, Statistics.of(features), 0.0)
