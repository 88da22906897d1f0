"""Reads from CloudWatch, wherever the programs run: metrics of the last hour, and lines of the drivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from statistics import fmean

from conf.answers import write_out
from conf.emr.stack import Stack
from conf.errors import NotFoundError

_NAMESPACE, _DIMENSION = "picture-features", "output"
_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
_METRICS = (
    ("Pictures", "Sum", "pictures in the last hour"),
    ("Quarantined", "Sum", "quarantined in the last hour"),
    ("SecondsBehind", "Maximum", "seconds behind, at most"),
    ("BatchSeconds", "Average", "seconds per micro-batch"),
    ("Drift", "Average", "share of pictures unlike the fit's"),
    ("ModelRefused", "Sum", "micro-batches that kept a former model"),
)
_LATE = timedelta(minutes=10)  # a line may come to CloudWatch so long after it was printed
_OVER_MINUTES: Mapping[str, Callable[[Sequence[float]], float]] = {"Sum": sum, "Maximum": max, "Average": fmean}


def last_hour(stack: Stack, output: str) -> Iterator[str]:
    """The metrics of the stream, wherever it runs; a line for each that there is."""
    now = datetime.now(UTC)
    queries = [
        {
            "Id": name.lower(),
            "MetricStat": {
                "Metric": {
                    "Namespace": _NAMESPACE,
                    "MetricName": name,
                    "Dimensions": [{"Name": _DIMENSION, "Value": output}],
                },
                "Period": 60,
                "Stat": statistic,
            },
        }
        for name, statistic, _ in _METRICS
    ]
    answer = stack.client("cloudwatch").get_metric_data(
        MetricDataQueries=queries, StartTime=now - _HOUR, EndTime=now + _MINUTE
    )
    by_minute = {result["Id"]: result["Values"] for result in answer["MetricDataResults"]}
    for name, statistic, label in _METRICS:
        if values := by_minute.get(name.lower()):
            yield f"{label:<36} {_OVER_MINUTES[statistic](values):,.6g}"


def driver_logs(stack: Stack, group: str, since: timedelta, job: str = "") -> Iterator[str]:
    """The output of the drivers, oldest first, or that of the driver of one job.

    Raises:
        NotFoundError: nothing was printed.
    """
    nothing = True
    for event in _events(stack, group, datetime.now(UTC) - since):
        if job in event["logStreamName"]:
            nothing = False
            yield event["message"].rstrip()
    if nothing:
        raise NotFoundError(
            f"{group}: nothing was printed in the last {since}; --since 1d looks further back, --step shows what a "
            "step printed, from the log archive"
        )


class Follower:
    """Writes to stdout, at each call, what the drivers have printed since it was made."""

    def __init__(self, stack: Stack, group: str) -> None:
        self._stack, self._group = stack, group
        self._since = datetime.now(UTC)
        self._seen: set[str] = set()

    def __call__(self) -> None:
        there = set()
        for event in _events(self._stack, self._group, self._since):
            there.add(event["eventId"])
            if event["eventId"] not in self._seen:
                with suppress(SystemExit):  # whoever reads has seen enough, and the job is waited for all the same
                    write_out(f"{event['message'].rstrip()}\n")
        self._seen = there
        self._since = max(self._since, datetime.now(UTC) - _LATE)


def _events(stack: Stack, group: str, since: datetime) -> Iterator[Mapping[str, str]]:
    pages = stack.client("logs").get_paginator("filter_log_events")
    for page in pages.paginate(logGroupName=group, startTime=int(since.timestamp() * 1000)):
        yield from page["events"]
