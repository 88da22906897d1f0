"""One micro-batch: one manifest in, one committed result out.

It owns the order of the steps; it must not know how pictures become features, nor how the result is stored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from conf.errors import OutputError
from streaming.executors import Executors
from streaming.features.schema import OUTCOMES, PICTURES
from streaming.manifests import written_at
from streaming.models import ModelSource
from streaming.notice import Holding, hold_nothing
from streaming.sink import Result, Sink

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchReport:
    """What a micro-batch did.

    Attributes:
        manifest: its identity.
        pictures: rows in features and quarantine together.
        quarantined: rows in quarantine, by reason.
        seconds: from its start to its commit.
        seconds_behind: from the writing of its manifest to its commit.
        model_version: the model of all its rows.
    """

    manifest: str
    pictures: int
    quarantined: Counter[str]
    seconds: float
    seconds_behind: float
    model_version: str


class DrainingError(Exception):
    """Thrown at Spark to keep it from taking a batch that was not worked on for a finished one."""


class MicroBatches:
    """The function that foreachBatch calls.

    Args:
        executors: do the work.
        models: gives each micro-batch its model.
        sink: takes the results.
        may_commit: called before each commit; raises if this process has lost the right to write.
        admit: called with each manifest; False if it is to be passed over.
        check_missing: called with Spark's id of a micro-batch without rows; raises unless its manifest is finished.
        on_report: told of each micro-batch.
        hold: gives the denylist, and keeps it as it is during a commit.
    """

    def __init__(
        self,
        executors: Executors,
        models: ModelSource,
        sink: Sink,
        may_commit: Callable[[], None],
        admit: Callable[[str], bool],
        check_missing: Callable[[int], None],
        on_report: Callable[[BatchReport], None],
        hold: Holding = hold_nothing,
    ) -> None:
        self._executors = executors
        self._models = models
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

    def drain(self) -> None:
        """Let the micro-batch in work end, and begin no other."""
        self.drained = True
        with self._busy:
            pass

    def _process(self, batch: pa.Table, batch_id: int) -> None:
        started = time.monotonic()
        [manifest, *others] = pc.unique(batch.column("manifest")).to_pylist() or [None]
        if manifest is None:
            self._check_missing(batch_id)
            return
        if others:
            raise OutputError(f"micro-batch {batch_id} holds more than one manifest: {manifest}, {others}")
        if self._sink.is_committed(manifest):
            _logger.info("manifest %s is done already", manifest)
            return
        if not self._admit(manifest):
            return
        model = self._models.current()
        with self._hold() as denylist:
            pictures = denylist.without(batch.select(PICTURES.names).cast(PICTURES))
        outcomes = self._executors.featurize(pictures, model) if len(pictures) else OUTCOMES.empty_table()
        if outcomes.column("path").to_pylist() != pictures.column("path").to_pylist():
            raise OutputError(f"manifest {manifest}: the outcomes are not one row per picture; this is a defect")
        processed_at = batch.column("processed_at")[0].as_py()
        with self._hold() as denylist:  # which may have grown meanwhile
            outcomes = denylist.without(outcomes)
            self._may_commit()
            self._sink.commit(manifest, Result(outcomes, model.version, processed_at))
        reasons = Counter(reason for reason in outcomes.column("reason").to_pylist() if reason)
        self._on_report(
            BatchReport(
                manifest=manifest,
                pictures=len(outcomes),
                quarantined=reasons,
                seconds=time.monotonic() - started,
                seconds_behind=(datetime.now(UTC) - written_at(manifest)).total_seconds(),
                model_version=model.version,
            )
        )
