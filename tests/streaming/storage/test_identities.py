"""Sets of identities behave as Python's own do, also where these end with zeros."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from batch_fit.held_back import MOST_HELD_BACK, is_held_back, last_held_back
from streaming.storage.folder import identity_of
from streaming.storage.identities import NO_IDENTITIES, Identities

ZEROS = bytes(16)
ALL = [*(identity_of(f"/in/{number}.jpg") for number in range(300)), ZEROS, b"\xff" * 8 + bytes(8), b"\xff" * 16]


def test_a_set_is_that_of_python() -> None:
    made = Identities.of([*ALL, *ALL[:50]])
    assert [*made] == sorted(ALL)
    assert len(made) == len(ALL)
    assert made == {*ALL}
    assert made.last() == b"\xff" * 16
    assert ZEROS in made
    assert identity_of("another") not in made
    assert made.has([ALL[3], identity_of("another"), ZEROS]).tolist() == [True, False, True]
    assert [*made.smallest(7)] == sorted(ALL)[:7]
    assert made.smallest(None) == made


def test_no_identity_is_in_an_empty_set() -> None:
    assert ZEROS not in NO_IDENTITIES
    assert not NO_IDENTITIES
    assert NO_IDENTITIES.has(ALL).tolist() == [False] * len(ALL)
    assert NO_IDENTITIES.has([]).tolist() == []
    assert NO_IDENTITIES.last() == b""


@pytest.mark.parametrize("cut", [0, 1, 150, len(ALL)])
def test_union_and_difference(cut: int) -> None:
    one, other = Identities.of(ALL[:cut]), Identities.of(ALL[max(0, cut - 20) :])
    assert [*(one | other)] == sorted(ALL)
    assert [*(one | {*ALL})] == sorted(ALL)
    assert one - other == {*one} - {*other}
    assert other - {*ALL} == set()


def test_packed_sets_are_put_together() -> None:
    parts = [Identities.of(ALL[:100]).packed(), NO_IDENTITIES.packed(), Identities.of(ALL[50:]).packed()]
    assert [*Identities.of_packed(parts)] == sorted(ALL)
    assert Identities.of_packed([]) == set()


def test_columns_are_read_whatever_their_pieces_are() -> None:
    """Of fixed size or not, and a slice of a longer one."""
    whole = pa.array(ALL, pa.binary(16))
    pieces = pa.chunked_array([whole[:100], whole[100:100], whole[100:]])
    for column in (whole, pieces, pieces.cast(pa.binary())):
        assert Identities.of_columns([column]) == {*ALL}
    assert Identities.of_columns([whole[5:9], whole[200:]]) == {*ALL[5:9], *ALL[200:]}
    assert Identities.of_columns([]) == set()
    assert Identities.of_columns([whole]).column().to_pylist() == sorted(ALL)


def test_the_last_that_is_held_out_is_found_without_looking_at_each() -> None:
    made = Identities.of(np.random.default_rng(0).bytes(16) for _ in range(1000))
    many = Identities.of(np.random.default_rng(number).bytes(16) for number in range(3 * MOST_HELD_BACK * 4))
    for one in (made, many):
        expected = sorted(filter(is_held_back, one))[:MOST_HELD_BACK]
        assert last_held_back(one) == max(expected, default=b"")
    assert last_held_back(NO_IDENTITIES) == b""
