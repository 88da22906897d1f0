"""What runs in Spark's Python workers: batches of pictures in, batches of outcomes out.

It owns when pictures are featurized in the worker itself, which is fast, and when in an expendable process; it must not
know of Spark, nor how a picture is featurized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Protocol

import pyarrow as pa

from streaming.features.expendable import ExpendableFeaturizer
from streaming.features.featurizer import Featurizer, Recipe


@lru_cache(maxsize=1)
def load_featurizer(recipe: Recipe) -> Featurizer:
    """The featurizer of this process for this recipe, loaded when the recipe's content is new."""
    return Featurizer(recipe)


class Broadcast(Protocol):
    """What Spark's broadcasts look like from here."""

    @property
    def value(self) -> Recipe:
        """The recipe, as this process has it."""


def featurize_with(
    broadcast: Broadcast, is_retry: Callable[[], bool]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function that mapInArrow runs in the workers: batches of `PICTURES` to batches of `OUTCOMES`.

    Args:
        broadcast: of the recipe.
        is_retry: asked in the worker; if the task failed before, perhaps with its worker, its pictures are featurized
            in an expendable process.
    """

    def featurize(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if is_retry():
            with ExpendableFeaturizer(broadcast.value) as expendable:
                for batch in batches:
                    yield from expendable(batch)
            return
        featurizer = load_featurizer(broadcast.value)
        for batch in batches:
            yield featurizer(batch)

    return featurize
