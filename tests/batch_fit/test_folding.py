"""What a fit keeps of the outcomes: statistics that are complete, or an error."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.accumulators import INT_ACCUMULATOR_PARAM, Accumulator

from batch_fit.folding import Marks, conclude, fold_with
from conf.errors import AppError
from streaming.features.schema import OUTCOMES
from streaming.storage.folder import identity_of
from streaming.storage.identities import Identities

_PATHS = [f"/in/{number}.jpg" for number in range(60)]
_MARKS = Marks.of(Identities.of(map(identity_of, _PATHS)))


def _folded() -> list[pa.RecordBatch]:
    """A batch of pictures, one of them rejected, and one with their statistics."""
    features = np.random.default_rng(0).random((len(_PATHS), 1280), np.float32).tolist()
    features[7] = None
    reasons = [None if one else "corrupt" for one in features]
    columns = {"path": _PATHS, "features": features, "reason": reasons, "detail": reasons}
    outcomes = pa.RecordBatch.from_pydict(columns, pa.schema(OUTCOMES.field(name) for name in columns))
    return [*fold_with(_MARKS, Accumulator(0, 0, INT_ACCUMULATOR_PARAM))([outcomes])]


def test_statistics_that_spark_lost_or_repeated_make_no_model() -> None:
    """As it may where an executor is lost while rows are on their way to another."""
    pictures, statistics = _folded()
    whole = conclude(pa.Table.from_batches([pictures, statistics]), _MARKS)
    held_out = len(whole.evidence.held_back.identities)
    assert held_out > 0
    assert whole.evidence.statistics.count == len(whole.accepted) == 59
    for others, counted in ([], 0), ([statistics] * 2, 2 * (59 - held_out)):
        with pytest.raises(AppError, match=f"are of {counted} pictures, and {59 - held_out} should be in them"):
            conclude(pa.Table.from_batches([pictures, *others]), _MARKS)
    accepted = pictures.filter(pc.invert(pc.is_in(pictures.column("path"), pa.array(_PATHS[:20]))))
    with pytest.raises(AppError, match="Spark has lost or repeated results"):
        conclude(pa.Table.from_batches([accepted, statistics]), _MARKS)
