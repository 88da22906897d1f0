"""A featurizer that waits instead of working, for the benchmark of the driver; `waiting_stream` runs a stream with it.

A picture takes 5 ms of a slot, and no picture is read: a worker sleeps as long as all pictures of a batch take, and
answers with random numbers. It needs neither the backbone nor a core, so one machine runs as many as a cluster has.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streaming.features.schema import FEATURE_COUNT, OUTCOMES
from streaming.features.workers import Broadcast

SECONDS_PER_PICTURE = 0.005

_COMPONENTS = 100
_DRAWN = 2048  # rows, from which each batch takes some in a row: more than zstd looks back
_SHA256 = "0" * 64


def featurize_with(
    broadcast: Broadcast, is_retry: Callable[[], bool], tick: Callable[[], object] = lambda: None
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """In place of `streaming.features.workers.featurize_with`; workers do not read the broadcast."""
    keeps_embeddings = broadcast.value.keeps_embeddings

    def featurize(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            outcomes = _outcomes(batch, keeps_embeddings=keeps_embeddings)
            time.sleep(SECONDS_PER_PICTURE * len(batch))
            yield outcomes

    return featurize


def _outcomes(pictures: pa.RecordBatch, *, keeps_embeddings: bool) -> pa.RecordBatch:
    """`OUTCOMES` of pictures that were all accepted."""
    count = len(pictures)
    columns = {
        **{name: pictures.column(name) for name in ("path", "length", "modification_time")},
        "width": pa.repeat(640, count),
        "height": pa.repeat(480, count),
        "features": _lists(_drawn(_COMPONENTS), count),
        "reconstruction_error": pa.array(np.random.default_rng().random(count, np.float32)),
        "sha256": pa.repeat(_SHA256, count),
    }
    if keeps_embeddings:
        columns["embedding"] = pa.array([row.tobytes() for row in _rows(_drawn(FEATURE_COUNT), count)])
    arrays = [columns.get(field.name, pa.nulls(count)).cast(field.type) for field in OUTCOMES]
    return pa.RecordBatch.from_arrays(arrays, schema=OUTCOMES)


@cache
def _drawn(width: int) -> NDArray[np.float32]:
    """Rows of random numbers, half of them 0, as of the backbone."""
    return np.maximum(np.random.default_rng(width).standard_normal((_DRAWN, width), np.float32), 0)


def _rows(drawn: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    return np.take(drawn, np.arange(count) + random.randrange(_DRAWN), axis=0, mode="wrap")


def _lists(drawn: NDArray[np.float32], count: int) -> pa.ListArray:
    width, values = drawn.shape[1], _rows(drawn, count).ravel()
    return pa.ListArray.from_arrays(pa.array(np.arange(0, values.size + 1, width, dtype=np.int32)), pa.array(values))
