"""Replays without Spark: lease, discovery, manifests and tables are real, and each picture gets features made up."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conf.settings import Settings
from streaming.__main__ import _replay
from streaming.engine.job import StreamJob
from streaming.features.schema import OUTCOMES
from streaming.output.batch_report import BatchReport
from streaming.output.manifests import read_manifest
from streaming.output.tables import Result, Tables, unfinished


def replay_here(settings: Settings, *, skip_if_running: bool = True) -> str:
    """What the verb does, and what it says; for several threads at once."""
    return _replay(settings, Namespace(skip_if_running=skip_if_running)).as_text()


def replace_spark(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Take Spark's place in this process; `meanwhile` is called when the manifests are there, before any commit."""

    @contextmanager
    def starting(*_: object) -> Iterator[Callable[[], Any]]:
        yield lambda: SimpleNamespace(sparkContext=SimpleNamespace(defaultParallelism=1))

    class Queries:
        def __init__(self, job: StreamJob) -> None:
            self._job = job

        def drain(self) -> None:
            meanwhile()
            output = self._job._places.output
            for manifest in unfinished(output):
                with self._job._tenure.writing():
                    report = _commit(Tables(output), manifest, [one.path for one in read_manifest(output, manifest)])
                self._job._on_report(report)

    monkeypatch.setattr("streaming.engine.job.starting_session", starting)
    monkeypatch.setattr(StreamJob, "_queries", lambda job, _spark, _waiting: nullcontext(Queries(job)))


def _commit(tables: Tables, manifest: str, paths: list[str]) -> BatchReport:
    now, count = datetime.now(UTC), len(paths)
    made_up = {
        "path": paths,
        "length": [3] * count,
        "modification_time": [now] * count,
        "width": [1] * count,
        "height": [1] * count,
        "features": [np.zeros(2, np.float32)] * count,
        "reconstruction_error": [0.5] * count,
    }
    outcomes = pa.table({**dict.fromkeys(OUTCOMES.names, [None] * count), **made_up}, schema=OUTCOMES)
    report = BatchReport(manifest, count, Counter(), 0.1, 0.1, "one", None)
    tables.commit(manifest, Result(outcomes, "", now, report))
    return report
