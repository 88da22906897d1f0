"""A small table of three days, committed as the stream does it, without Spark."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from streaming.features.reasons import Reason
from streaming.features.schema import FEATURE_COUNT, OUTCOMES
from streaming.output.batch_report import BatchReport
from streaming.output.tables import Result, Tables
from streaming.storage.folder import Folder

DAY = datetime(2026, 1, 30, 12, tzinfo=UTC)
LONG = timedelta(minutes=1)


def commit(
    output: Folder, day: int, paths: Sequence[str], model: str = "one", k: int = 4, backbone: str | None = None
) -> str:
    """What the stream does with a manifest of these pictures, written so many days after the first; its id.

    With the id of a backbone, it keeps their embeddings.
    """
    random = np.random.default_rng(len(paths))
    accepted = {
        "width": [1] * len(paths),
        "height": [2] * len(paths),
        "features": [random.normal(size=k).astype(np.float32) for _ in paths],
        "reconstruction_error": [0.5] * len(paths),
    }
    if backbone:
        accepted["embedding"] = [random.normal(size=FEATURE_COUNT).astype(np.float32).tobytes() for _ in paths]
    return _commit(output, DAY + timedelta(days=day), paths, model, accepted, backbone or "")


def commit_features(
    output: Folder, day: float, features: Mapping[str, Sequence[float]], model: str = "one", **columns: Sequence[object]
) -> str:
    """The same with these features by path, and other columns of `schema.OUTCOMES`."""
    made_up = {
        "width": [1] * len(features),
        "height": [2] * len(features),
        "reconstruction_error": [0.5] * len(features),
    }
    vectors = [np.array(vector, np.float32) for vector in features.values()]
    return _commit(
        output, DAY + timedelta(days=day), [*features], model, {**made_up, "features": vectors, **columns}, ""
    )


def reject(output: Folder, day: int, paths: Sequence[str]) -> str:
    """The same with a manifest of corrupt pictures."""
    rejected = {"reason": [Reason.CORRUPT] * len(paths), "detail": ["cut off"] * len(paths)}
    return _commit(output, DAY + timedelta(days=day), paths, "one", rejected, "")


def _commit(
    output: Folder, at: datetime, paths: Sequence[str], model: str, outcomes: Mapping[str, object], backbone: str
) -> str:
    count = len(paths)
    listed = {"path": paths, "length": range(count), "modification_time": [at] * count}
    columns = {**dict.fromkeys(OUTCOMES.names, [None] * count), **listed, **outcomes}
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()  # as `append_manifest` names it
    manifest = f"{at:%Y%m%dT%H%M%S%fZ}-{digest[:8]}"
    report = BatchReport(manifest, count, Counter(), 0, 0, model, None)
    assert Tables(output).commit(manifest, Result(pa.table(columns, schema=OUTCOMES), backbone, at, report))
    return manifest


def fill(folder: Folder) -> None:
    commit(folder, 0, ["/p/b.jpg", "/p/100%25/é ü,\"'.jpg"])
    commit(folder, 0, ["/p/a.jpg", "/p/_c.jpg"])
    commit(folder, 1, ["/q/1.jpg"])
    commit(folder, 2, ["/q/3.jpg", "/q/2.jpg"])
    commit(folder, 2, ["/q/0.jpg"], model="two", k=6)
    commit(folder, 2, [])
