"""The function that runs in Spark's Python workers: batches of pictures in, batches of outcomes out.

A task featurizes in the worker itself, which is fast; after a failure it does so in an isolated process. Pictures are
dealt to tasks of about the same number of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from streaming.features.expendable import ExpendableFeaturizer
from streaming.features.featurizer import Featurizer, Recipe

MODULES = (__name__, "ai_edge_litert.interpreter")
"""What a worker imports when it featurizes."""


@lru_cache(maxsize=1)
def load_featurizer(recipe: Recipe) -> Featurizer:
    """The featurizer of this process for a recipe, loaded when the recipe's content is new."""
    return Featurizer(recipe)


class Broadcast(Protocol):
    """The interface of Spark's broadcasts."""

    @property
    def value(self) -> Recipe:
        """The recipe, as this process has it."""


def featurize_with(
    broadcast: Broadcast, is_retry: Callable[[], bool], tick: Callable[[], object] = lambda: None
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function that mapInArrow runs in the workers: batches of `PICTURES` to batches of `OUTCOMES`.

    Args:
        broadcast: of the recipe.
        is_retry: asked in the worker; if the task failed before, perhaps with its worker, its pictures are featurized
            in an isolated process.
        tick: called in the worker after each picture.
    """

    def featurize(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if is_retry():
            with ExpendableFeaturizer(broadcast.value) as expendable:
                for batch in batches:
                    for outcome in expendable(batch):
                        tick()
                        yield outcome
            return
        featurizer = load_featurizer(broadcast.value)
        for batch in batches:
            yield featurizer(batch, tick)

    return featurize


def deal(pictures: pa.Table, slices: int) -> pa.Table:
    """Deal pictures into slices of about the same number of bytes; each becomes a chunk, and so a Spark partition."""
    by_length = pictures.take(pc.sort_indices(pictures, sort_keys=[("length", "descending")]))
    places = pa.array(range(len(pictures)))
    hands = [by_length.take(places[start::slices]) for start in range(min(slices, len(pictures)))]
    return pa.Table.from_batches([batch for hand in hands for batch in hand.combine_chunks().to_batches()])
