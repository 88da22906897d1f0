"""Rows are taken as Arrow takes them, though each list of numbers is copied as a whole."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from streaming.features.rows import filter_rows, take_rows
from streaming.features.schema import OUTCOMES

_LISTS = OUTCOMES.field("features").type


def _rows(*chunks: list[list[float] | None]) -> pa.Table:
    """A table with a column of lists in these chunks, and one of their numbers; each chunk is part of a longer one."""
    arrays = [pa.array([[9.0, 9.0], *chunk, None], _LISTS).slice(1, len(chunk)) for chunk in chunks]
    names = pa.chunked_array([[f"row {place}" for place in range(sum(map(len, chunks)))]])
    return pa.table({"name": names, "features": pa.chunked_array(arrays, _LISTS)})


_SOME_NULL = _rows([[0.0, 1.0], None, [2.0, 3.0]], [], [None], [[4.0, 5.0], [6.0, 7.0]])


@pytest.mark.parametrize("places", [[5, 0, 3, 2, 4, 1], [4, 4, 0], [1, 3], [], [5, None, 2]], ids=str)
@pytest.mark.parametrize(
    "table",
    [_SOME_NULL, _SOME_NULL.combine_chunks(), _rows([[1.5, 2.5]] * 6), _rows([None] * 6), _rows([[]] * 6)],
    ids=["some null", "one chunk", "none null", "all null", "empty lists"],
)
def test_rows_are_taken_as_arrow_takes_them(table: pa.Table, places: list[int | None]) -> None:
    chosen = pa.array(places, pa.int32())
    taken, by_arrow = take_rows(table, chosen), table.take(chosen)
    taken.validate(full=True)
    assert taken.schema == table.schema
    assert taken.column("name").equals(by_arrow.column("name"))
    there = pc.is_valid(chosen)
    assert taken.filter(there).equals(by_arrow.filter(there))


@pytest.mark.parametrize("kept", [[True] * 6, [False] * 6, [True, False, True, False, True, True]], ids=str)
def test_rows_are_filtered_as_arrow_filters_them(kept: list[bool]) -> None:
    mask = pa.chunked_array([kept])
    assert filter_rows(_SOME_NULL, mask).equals(_SOME_NULL.filter(mask))


def test_a_table_without_rows_may_have_no_chunks() -> None:
    """So it is after a micro-batch of no picture."""
    empty = _rows([]).slice(0, 0)
    without = pa.table([pa.chunked_array([], field.type) for field in empty.schema], schema=empty.schema)
    assert filter_rows(without, pc.is_valid(without.column("features"))).equals(without)
    assert filter_rows(empty, pc.is_valid(empty.column("features"))).equals(empty)


def test_every_number_of_an_embedding_is_kept() -> None:
    numbers = np.random.default_rng(0).standard_normal((300, 1280), np.float32)
    table = _rows([*numbers[:100]], [*numbers[100:]])
    order = np.random.default_rng(1).permutation(300)
    taken = take_rows(table, pa.array(order)).column("features")
    assert np.array_equal(taken.combine_chunks().flatten().to_numpy().reshape(300, 1280), numbers[order])
