"""One micro-batch: a manifest in, a committed result out.

The steps are: admit the manifest, featurize its pictures, commit the result, report it.
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

from conf import __version__
from streaming.engine.checkpoint import Epochs
from streaming.engine.drift import DriftMonitor
from streaming.engine.prefetch import Prefetch
from streaming.features.schema import PICTURES
from streaming.lease.tenure import Tenure
from streaming.output.batch_report import BatchReport
from streaming.output.decision import is_decided
from streaming.output.manifest_log import ManifestLog
from streaming.output.manifests import written_at
from streaming.output.recovery import finish_manifest
from streaming.output.tables import Result, Tables

_logger = logging.getLogger(__name__)


class DrainingError(Exception):
    """Raised in a micro-batch that is skipped, so that Spark does not record it as finished."""


class Reports:
    """Tells the report of each micro-batch of this process once, also if the store fails after its deciding write.

    Args:
        on_report: called with each.
    """

    def __init__(self, on_report: Callable[[BatchReport], None]) -> None:
        self._on_report = on_report
        self._kept: dict[str, BatchReport] = {}

    def keep(self, report: BatchReport) -> None:
        """Keep a report while its manifest is being decided."""
        self._kept[report.manifest] = report

    def drop(self, manifest: str) -> None:
        """Drop a report, as another process has decided its manifest."""
        self._kept.pop(manifest, None)

    def tell(self, report: BatchReport) -> None:
        """Tell a report, in place of the one that was kept."""
        self.drop(report.manifest)
        self._on_report(report)

    def tell_kept(self, manifest: str) -> None:
        """Tell the report that was kept of a manifest that turns out to be decided."""
        if report := self._kept.pop(manifest, None):
            self._on_report(report)


class MicroBatches:
    """The function that foreachBatch calls."""

    def __init__(
        self,
        tenure: Tenure,
        log: ManifestLog,
        epochs: Epochs,
        prefetch: Prefetch,
        drift: DriftMonitor,
        reports: Reports,
    ) -> None:
        self._tenure = tenure
        self._log = log
        self._epochs = epochs
        self._prefetch = prefetch
        self._drift = drift
        self._reports = reports
        self._tables = Tables(tenure.output)
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
        """Whether a micro-batch is running."""
        return self._busy.locked()

    def drain(self) -> None:
        """Let the running micro-batch end, and begin no other."""
        self.drained = True
        with self._busy:
            pass

    def _process(self, batch: pa.Table, batch_id: int) -> None:
        manifests = sorted(pc.unique(batch.column("manifest")).to_pylist())
        if not manifests:
            self._epochs.check_missing(batch_id)
        for manifest in manifests:  # several, if Spark was killed before it wrote down what it had planned
            self._process_manifest(manifest, batch.filter(pc.equal(batch.column("manifest"), manifest)))

    def _process_manifest(self, manifest: str, batch: pa.Table) -> None:
        if is_decided(self._tenure.output, manifest):
            self._complete(manifest)
            return
        if not self._log.admit(manifest):
            return
        with self._tenure.writing() as denylist:
            pictures = denylist.without(batch.select(PICTURES.names).cast(PICTURES))
        done = self._prefetch.featurize(manifest, pictures)
        model = done.model
        if not done.outcomes.column("path").equals(pictures.column("path")):
            raise RuntimeError(
                f"manifest {manifest}: {len(done.outcomes)} outcomes for {len(pictures)} pictures, or in another "
                f"order: a bug of picture-features {__version__}; report it with the log file"
            )
        with self._tenure.writing() as denylist:  # which may have grown meanwhile
            outcomes = denylist.without(done.outcomes)
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
                model_refused=done.model_refused,
            )
            processed_at = batch.column("processed_at")[0].as_py()
            self._reports.keep(report)
            committed = self._tables.commit(manifest, Result(outcomes, model.backbone, processed_at, report))
        if not committed:
            self._reports.drop(manifest)
            self._complete(manifest)
            return
        self._drift.keep(window)
        seconds = time.monotonic() - done.started  # measured again: the report in the footer precedes the commit
        self._reports.tell(replace(report, seconds=seconds, seconds_behind=_seconds_behind(manifest)))

    def _complete(self, manifest: str) -> None:
        """Complete a manifest that another attempt has decided, before or while this one worked on it."""
        with self._tenure.writing() as denylist:
            finish_manifest(self._tenure.output, manifest, denylist)
        _logger.info("manifest %s is done already", manifest)
        self._reports.tell_kept(manifest)


def _seconds_behind(manifest: str) -> float:
    return (datetime.now(UTC) - written_at(manifest)).total_seconds()
