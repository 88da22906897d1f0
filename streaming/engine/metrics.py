"""Metrics of the stream, as fields of log lines in CloudWatch's embedded metric format.

The format is specified in the CloudWatch user guide under "Specification: Embedded metric format".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

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


class Heartbeat:
    """Logs once a minute, while there is nothing to do, that the stream is alive and not behind.

    Without it an idle stream and a dead one would look the same in CloudWatch.
    """

    def __init__(self, output: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._since = clock()

    def look(self, busy: bool) -> None:  # noqa: FBT001 - an observation, not a switch
        """Call this several times a minute with whether a micro-batch is running."""
        now = self._clock()
        if busy:
            self._since = now
        elif now - self._since >= HEARTBEAT_SECONDS:
            self._since = now
            _logger.info("idle", extra={"data": _embedded({"Pictures": 0, "SecondsBehind": 0}, self._output)})


def _embedded(values: Mapping[str, float], output: str) -> dict[str, Any]:
    metrics = [{"Name": name, "Unit": _UNITS[name]} for name in values]
    directive = {"Namespace": NAMESPACE, "Dimensions": [[DIMENSION]], "Metrics": metrics}
    return {
        "_aws": {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]},
        DIMENSION: output,
        **values,
    }
