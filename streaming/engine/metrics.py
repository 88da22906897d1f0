"""Metrics of the stream in CloudWatch's embedded metric format: as fields of log lines, or sent to a log group.

The format is specified in the CloudWatch user guide under "Specification: Embedded metric format".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from conf.aws.connection import S3Connection
from conf.settings import Settings
from conf.uris import resolve
from streaming.engine.delivery import Delivery
from streaming.output.batch_report import BatchReport

_logger = logging.getLogger(__name__)

NAMESPACE = "picture-features"
DIMENSION = "output"
HEARTBEAT_SECONDS = 60.0

_UNITS = {
    "Pictures": "Count",
    "Quarantined": "Count",
    "SecondsBehind": "Seconds",
    "BatchSeconds": "Seconds",
    "ModelRefused": "Count",
    "Drift": "None",
}


def of_batch(report: BatchReport, output: str) -> dict[str, Any]:
    """The fields that make a log line the metrics of a micro-batch; Drift is left out where it is unavailable."""
    values = {
        "Pictures": report.pictures,
        "Quarantined": report.quarantined.total(),
        "SecondsBehind": round(report.seconds_behind, 3),
        "BatchSeconds": round(report.seconds, 3),
        "ModelRefused": int(report.model_refused),
    }
    return _embedded(values if report.drift is None else {**values, "Drift": round(report.drift, 4)}, output)


Tell = Callable[[Mapping[str, Any]], None]
"""Takes a document of metrics."""


class Metrics:
    """Tells the metrics of a stream.

    Args:
        output: canonical path.
        deliver: takes each document; None for none.
        in_log: whether log lines have the documents as fields.
    """

    def __init__(self, output: str, deliver: Tell | None = None, *, in_log: bool = False) -> None:
        self._output = output
        self._deliver = deliver
        self._in_log = in_log
        self._heartbeat = Heartbeat(output, deliver or _log_idle) if deliver or in_log else None

    def tell(self, report: BatchReport) -> Mapping[str, Any]:
        """Deliver the metrics of a micro-batch; returns the fields of its log line."""
        document = of_batch(report, self._output)
        if self._deliver:
            self._deliver(document)
        return document if self._in_log else {}

    def look(self, busy: bool) -> None:  # noqa: FBT001 - an observation, not a switch
        """Call this several times a minute with whether a micro-batch is running."""
        if self._heartbeat:
            self._heartbeat.look(busy)


@contextmanager
def open_metrics(settings: Settings) -> Iterator[Metrics]:
    """The metrics that the settings ask for; those that are sent to a log group are flushed at the end."""
    log, output = settings.log, resolve(settings.output or "")
    if log.metrics == "none":
        yield Metrics(output)
    elif log.metrics_group is None:
        yield Metrics(output, in_log=True)
    else:
        with Delivery(log.metrics_group, output, S3Connection.of(settings.s3)) as delivery:
            yield Metrics(output, delivery.send)


class Heartbeat:
    """Tells once a minute, while there is nothing to do, that the stream is alive and not behind.

    Without it an idle stream and a dead one would look the same in CloudWatch.
    """

    def __init__(self, output: str, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._tell = tell
        self._clock = clock
        self._since = clock()

    def look(self, busy: bool) -> None:  # noqa: FBT001 - an observation, not a switch
        """Call this several times a minute with whether a micro-batch is running."""
        now = self._clock()
        if busy:
            self._since = now
        elif now - self._since >= HEARTBEAT_SECONDS:
            self._since = now
            self._tell(_embedded({"Pictures": 0, "SecondsBehind": 0}, self._output))


def _log_idle(document: Mapping[str, Any]) -> None:
    _logger.info("idle", extra={"data": document})


def _embedded(values: Mapping[str, float], output: str) -> dict[str, Any]:
    metrics = [{"Name": name, "Unit": _UNITS[name]} for name in values]
    directive = {"Namespace": NAMESPACE, "Dimensions": [[DIMENSION]], "Metrics": metrics}
    return {
        "_aws": {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]},
        DIMENSION: output,
        **values,
    }
