"""Pictures with made-up outcomes, as an attempt at a manifest sees them; no Spark needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from streaming.features.schema import OUTCOMES
from streaming.output.batch_report import BatchReport
from streaming.output.tables import Result
from streaming.storage.folder import StoredPicture

BACKBONE = "0123456789abcdef"
NOW = datetime(2026, 1, 31, tzinfo=UTC)


def named(names: Collection[str]) -> list[StoredPicture]:
    """A picture for each name of one letter."""
    return [StoredPicture(f"/in/{name} %.jpg", 1, NOW) for name in names]


def name_of(path: str) -> str:
    """The letter."""
    return path.removeprefix("/in/")[0]


def result_of(manifest: str, pictures: Sequence[StoredPicture], reasons: Mapping[str, str]) -> Result:
    """Features, or the reason for those that have one by their letter."""
    why = [reasons.get(name_of(picture.path)) for picture in pictures]
    columns: dict[str, list[Any]] = {name: [1 if reason is None else None for reason in why] for name in OUTCOMES.names}
    columns |= {name: [getattr(picture, name) for picture in pictures] for name in ("path", "length")}
    columns |= {"modification_time": [NOW] * len(why), "reason": why, "detail": why, "sha256": why}
    columns["features"] = [[1.0] if reason is None else None for reason in why]
    columns["embedding"] = [np.float32(1).tobytes() if reason is None else None for reason in why]
    columns |= dict.fromkeys(("captured_at", "camera", "predicted_label", "confidence"), [None] * len(why))
    report = BatchReport(manifest, len(why), Counter(filter(None, why)), 0.0, 0.0, "model", None)
    return Result(pa.table(columns, schema=OUTCOMES), BACKBONE, NOW, report)
