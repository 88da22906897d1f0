"""One micro-batch: a manifest in, a committed result out.

It owns the order of the steps; it must not know how pictures become features, nor how the result is stored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from conf.errors import OutputError
from streaming.ahead import Ahead
from streaming.batch_report import BatchReport
from streaming.drift import DriftMonitor
from streaming.features.schema import PICTURES
from streaming.manifests import written_at
from streaming.models import ModelSource
from streaming.notice import Holding, hold_nothing
from streaming.sink import Result, Sink

_logger = logging.getLogger(__name__)


class DrainingError(Exception):
    """Thrown at Spark to keep it from taking a batch that was not worked on for a finished one."""


class MicroBatches:
    """The function that foreachBatch calls.

    Args:
        ahead: does the work.
        models: gives each micro-batch its model.
        drift: told of the reconstruction errors.
        sink: takes the results.
        may_commit: called before each commit; raises if this process has lost the right to write.
        admit: called with each manifest; False if it is to be passed over.
        check_missing: called with Spark's id of a micro-batch without rows; raises unless its manifest is finished.
        on_report: told of each micro-batch.
        hold: gives the denylist, and keeps it as it is during a commit.
    """

    def __init__(
        self,
        ahead: Ahead,
        models: ModelSource,
        drift: DriftMonitor,
        sink: Sink,
        may_commit: Callable[[], None],
        admit: Callable[[str], bool],
        check_missing: Callable[[int], None],
        on_report: Callable[[BatchReport], None],
        hold: Holding = hold_nothing,
    ) -> None:
        self._ahead = ahead
        self._models = models
        self._drift = drift
        self._sink = sink
        self._may_commit = may_commit
        self._admit = admit
        self._check_missing = check_missing
        self._on_report = on_report
        self._hold = hold
        self._busy = threading.Lock()
        self.drained = False
        self.failure: BaseException | None = None
        self.finished = 0

    def __call__(self, batch: DataFrame, batch_id: int) -> None:
        """Featurize and commit a micro-batch."""
        with self._busy:
            if self.drained:
                raise DrainingError
            try:
                self._process(batch.toArrow(), batch_id)
            except BaseException as error:
                self.failure = error
                raise
            self.finished += 1

    @property
    def busy(self) -> bool:
        """Whether a micro-batch is in work."""
        return self._busy.locked()

    def drain(self) -> None:
        """Let the micro-batch in work end, and begin no other."""
        self.drained = True
        with self._busy:
            pass

    def _process(self, batch: pa.Table, batch_id: int) -> None:
        manifests = sorted(pc.unique(batch.column("manifest")).to_pylist())
        if not manifests:
            self._check_missing(batch_id)
        for manifest in manifests:  # several, if Spark was killed before it wrote down what it had planned
            self._process_manifest(manifest, batch.filter(pc.equal(batch.column("manifest"), manifest)))

    def _process_manifest(self, manifest: str, batch: pa.Table) -> None:
        if self._sink.is_committed(manifest):
            _logger.info("manifest %s is done already", manifest)
            return
        if not self._admit(manifest):
            return
        model = self._models.current()
        with self._hold() as denylist:
            pictures = denylist.without(batch.select(PICTURES.names).cast(PICTURES))
        done = self._ahead.featurize(manifest, pictures, model)
        if done.outcomes.column("path").to_pylist() != pictures.column("path").to_pylist():
            raise OutputError(f"manifest {manifest}: the outcomes are not one row per picture; this is a defect")
        with self._hold() as denylist:  # which may have grown meanwhile
            outcomes = denylist.without(done.outcomes)
            self._may_commit()
            reasons = Counter(reason for reason in outcomes.column("reason").to_pylist() if reason)
            errors = outcomes.column("reconstruction_error").drop_null().to_numpy()
            window = self._drift.look(model.version, model.held_back, errors)
            report = BatchReport(
                manifest=manifest,
                pictures=len(outcomes),
                quarantined=reasons,
                seconds=time.monotonic() - done.started,
                seconds_behind=_seconds_behind(manifest),
                model_version=model.version,
                drift=window.drift,
                model_refused=self._models.refused,
            )
            processed_at = batch.column("processed_at")[0].as_py()
            self._sink.commit(manifest, Result(outcomes, processed_at, report))
        self._drift.keep(window)
        seconds = time.monotonic() - done.started  # now that it is committed
        self._on_report(replace(report, seconds=seconds, seconds_behind=_seconds_behind(manifest)))


def _seconds_behind(manifest: str) -> float:
    return (datetime.now(UTC) - written_at(manifest)).total_seconds()
