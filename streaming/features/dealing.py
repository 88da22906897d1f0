"""Divides pictures among tasks.

It owns what makes tasks equally long; it must not know what runs them.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def deal(pictures: pa.Table, slices: int) -> pa.Table:
    """Deal pictures into slices of about the same number of bytes; each becomes a chunk, and so a Spark partition."""
    by_length = pictures.take(pc.sort_indices(pictures, sort_keys=[("length", "descending")]))
    places = pa.array(range(len(pictures)))
    hands = [by_length.take(places[start::slices]) for start in range(min(slices, len(pictures)))]
    return pa.Table.from_batches([batch for hand in hands for batch in hand.combine_chunks().to_batches()])
