"""Measures Spark's overhead for a micro-batch, with few and with many finished manifests.

    python -m benchmarks.planning

A place with a long history is made by the application's own code: manifests, their commit marks, and the folding of
finished ones at the end of each epoch; only their pictures and micro-batches are left out. The last epoch is made by
real micro-batches up to just before its end, where the logs of Spark are the longest that they ever get. Then manifests
come one by one, as in a trickle of pictures, and each is measured. The places take turns.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from statistics import mean

from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from benchmarks.support.common import CORES, Figure, at_most, print_figures, wait_for_quiet
from conf.loading import load_settings
from conf.settings import StreamSettings
from conf.spark.session import start_session
from conf.spark.ticks import Ticks
from streaming.engine.checkpoint import Epochs
from streaming.engine.drift import DriftMonitor
from streaming.engine.executors import Executors
from streaming.engine.microbatch import MicroBatches, Reports
from streaming.engine.prefetch import Prefetch
from streaming.engine.query import raise_failure, running_query
from streaming.engine.serving import ModelSource
from streaming.features.schema import OUTCOMES
from streaming.output.batch_report import BatchReport
from streaming.output.known import KnownPictures
from streaming.output.manifest_log import ManifestLog
from streaming.output.manifests import append_manifest, prepare_log
from streaming.output.tables import Result, Tables
from streaming.registry.registry import Registry
from streaming.storage.folder import StoredPicture
from streaming.storage.locations import open_folder
from tests.support.scratch import new_place
from tests.support.streams import Place
from tests.support.tenures import LooseTenure

_HISTORIES = (10, 1_000, 20_000)
_ROUNDS = 3
_BATCHES = 23
_WARM_UP = 3  # of these, after each start of a query
_MEASURED = _ROUNDS * _BATCHES
_EPOCH = StreamSettings().epoch_manifests
_STEPS = ("latestOffset", "walCommit", "getBatch", "queryPlanning", "commitOffsets")


class _Stream:
    """A stream on `place`, without discovery."""

    def __init__(self, spark: SparkSession, place: Place) -> None:
        self._spark = spark
        self._place = place
        self._output = open_folder(str(place.output))
        self._sink = Tables(self._output)
        self._sink.prepare()
        prepare_log(self._output)
        self._tenure = LooseTenure(self._output)
        self._epochs = Epochs(self._tenure, open_folder(str(place.checkpoint)))
        self._epochs.open()
        self._models = ModelSource(
            spark.sparkContext, Registry(open_folder(str(place.models))), load_settings({"stream.settle": "0s"})
        )
        self._appended = 0
        self.durations: list[Counter[str]] = []
        self.turn_seconds: list[float] = []

    def age(self, manifests: int) -> None:
        """Put `manifests` behind this stream, less than an epoch of them unfolded."""
        while manifests - self._appended > _EPOCH:
            for _ in range(_EPOCH):
                manifest = self._append()
                report = BatchReport(manifest, 0, Counter(), 0, 0, "none", None)
                self._sink.commit(manifest, Result(OUTCOMES.empty_table(), "", datetime.now(UTC), report))
            started = time.monotonic()
            self._epochs.turn()
            self.turn_seconds.append(time.monotonic() - started)
        while self._appended < manifests:
            self._append()
        uri = self._epochs.uri
        with (
            self._batches() as batches,
            running_query(self._spark, self._output, uri, batches, available_now=True) as query,
        ):
            query.awaitTermination()

    def measure(self) -> None:
        """Let `_BATCHES` manifests come, one by one."""
        with (
            self._batches() as batches,
            running_query(self._spark, self._output, self._epochs.uri, batches, available_now=False) as query,
        ):
            for number in range(_BATCHES):
                self._append()
                while query.isActive and len(_durations(query)) <= number:
                    time.sleep(0.02)
        raise_failure(None, batches)
        self.durations += _durations(query)[_WARM_UP:]

    def _append(self) -> str:
        """A manifest of one picture, of 0 bytes, so that next to nothing but planning is left."""
        picture = self._place.source / f"{self._appended}.jpg"
        picture.touch()
        self._appended += 1
        now = datetime.now(UTC)
        return append_manifest(self._output, [StoredPicture(str(picture), 0, now)], now)

    @contextmanager
    def _batches(self) -> Iterator[MicroBatches]:
        log = ManifestLog(self._tenure, KnownPictures(self._output))
        with closing(Prefetch(Executors(self._spark, Ticks()), self._models, log)) as prefetch:
            drift, reports = DriftMonitor(1, "refit"), Reports(lambda report: None)
            yield MicroBatches(self._tenure, log, self._epochs, prefetch, drift, reports)


def _durations(query: StreamingQuery) -> list[Counter[str]]:
    """Milliseconds of each step of each micro-batch; `planning` is all but the work in it."""
    durations = [Counter(progress.durationMs) for progress in query.recentProgress if progress.numInputRows]
    for one in durations:
        one["planning"] = one["triggerExecution"] - one["addBatch"]
    return durations


def measure() -> Iterator[Figure]:
    """Mean and worst planning time for each history."""
    with ExitStack() as stack:
        settings = load_settings({"spark.master": f"local[{CORES},4]"})
        spark = start_session("benchmark", settings, {"spark.sql.streaming.pollingDelay": "100ms"})
        stack.callback(spark.stop)
        streams = {behind: _Stream(spark, stack.enter_context(new_place())) for behind in _HISTORIES}
        for behind, stream in streams.items():
            stream.age(max(behind - _MEASURED, min(_HISTORIES)))
        for _ in range(_ROUNDS):
            for stream in streams.values():
                wait_for_quiet()
                stream.measure()
    for behind, stream in streams.items():
        planning = [one["planning"] for one in stream.durations]
        yield Figure(f"planning with {behind:,} manifests behind, mean", f"{mean(planning):.0f} ms")
        yield Figure(f"planning with {behind:,} manifests behind, worst", f"{max(planning):.0f} ms")
    few, *_, many = streams.values()
    for step in _STEPS:
        yield Figure(f"of these, {step}, fewest and most behind", f"{_mean(few, step):.0f}, {_mean(many, step):.0f} ms")
    yield Figure(f"folding an epoch of {_EPOCH:,}", f"{mean(many.turn_seconds):.2f} s")
    ratio = _mean(many, "planning") / _mean(few, "planning")
    yield at_most(f"planning with {max(_HISTORIES):,} over {min(_HISTORIES)} behind, mean", ratio, 1.2, "x")


def _mean(stream: _Stream, step: str) -> float:
    return mean(one[step] for one in stream.durations)


if __name__ == "__main__":
    print_figures(measure())
