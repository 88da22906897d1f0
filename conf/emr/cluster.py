"""The cluster of a stack: its steps, their state, and what they print, from EMR, CloudWatch and the log archive."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any

from botocore.exceptions import ClientError

from conf.emr.application import bucket_and_key
from conf.emr.stack import Stack
from conf.errors import InputError, NotFoundError
from conf.failures import code_of

_STEPS_SHOWN = 10
_ENDED = ("TERMINATING", "TERMINATED", "TERMINATED_WITH_ERRORS")
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
_OVER_MINUTES: Mapping[str, Callable[[Sequence[float]], float]] = {"Sum": sum, "Maximum": max, "Average": fmean}


@dataclass(frozen=True)
class Cluster:
    """The cluster of a stack.

    Attributes:
        stack: that it belongs to.
        id: as EMR names it.
    """

    stack: Stack
    id: str

    @classmethod
    def of(cls, stack: Stack, outputs: Mapping[str, str]) -> Cluster:
        """The one that the stack has now.

        Raises:
            NotFoundError: it has none.
        """
        if "ClusterId" not in outputs:
            raise NotFoundError(f"stack {stack.name!r} has no cluster; python -m conf.emr deploy makes one")
        return cls(stack, outputs["ClusterId"])

    def has_ended(self) -> bool:
        """Whether it runs no more, and never will."""
        try:
            return self._describe()["Status"]["State"] in _ENDED
        except ClientError as error:
            if code_of(error) == "InvalidRequestException":  # EMR forgets an ended cluster after two months
                return True
            raise

    def submit(self, name: str, arguments: Sequence[str]) -> str:
        """Add a step that runs spark-submit; returns its id.

        Raises:
            NotFoundError: the cluster has ended.
        """
        if self.has_ended():
            raise NotFoundError(f"cluster {self.id} has ended; python -m conf.emr deploy makes a new one")
        step = step_of(name, arguments)
        added = self.stack.client("emr").add_job_flow_steps(JobFlowId=self.id, Steps=[step])
        return str(added["StepIds"][0])

    def status(self) -> str:
        """State, nodes, the latest steps."""
        emr = self.stack.client("emr")
        cluster = self._describe()
        why = cluster["Status"].get("StateChangeReason", {}).get("Message", "")
        groups = emr.list_instance_groups(ClusterId=self.id)["InstanceGroups"]
        steps = emr.list_steps(ClusterId=self.id)["Steps"][:_STEPS_SHOWN]
        lines = [f"cluster      {self.id} {cluster['Status']['State']}{f': {why}' if why else ''}"]
        lines += [
            f"nodes        {group['InstanceGroupType'].lower()} {group['RunningInstanceCount']} of "
            f"{group['RequestedInstanceCount']} {group['InstanceType']} {group['Market'].lower().replace('_', ' ')}"
            for group in groups
        ]
        lines += [f"step         {step['Id']} {step['Status']['State']} {step['Name']}" for step in steps]
        return "\n".join(lines)

    def _describe(self) -> dict[str, Any]:
        return dict(self.stack.client("emr").describe_cluster(ClusterId=self.id)["Cluster"])

    def step_log(self, archive: str, step: str) -> str:
        """What spark-submit said of a step, from the log archive, which is some minutes behind.

        Raises:
            InputError: it is not there, or not yet.
        """
        bucket, key = bucket_and_key(archive, f"{self.id}/steps/{step}/stderr.gz")
        try:
            body = self.stack.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            if code_of(error) == "NoSuchKey":
                raise InputError(
                    f"s3://{bucket}/{key} is not there; EMR writes it up to five minutes later, python -m conf.emr "
                    "status lists the steps"
                ) from None
            raise
        return gzip.decompress(body).decode(errors="replace").rstrip()


def last_hour(stack: Stack, output: str) -> Iterator[str]:
    """What the stream told CloudWatch, wherever it runs; a line for each metric that it told."""
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


def driver_logs(stack: Stack, group: str, since: timedelta) -> Iterator[str]:
    """What the drivers printed, oldest first, from CloudWatch.

    Raises:
        NotFoundError: nothing was printed.
    """
    pages = (
        stack.client("logs")
        .get_paginator("filter_log_events")
        .paginate(logGroupName=group, startTime=int((datetime.now(UTC) - since).timestamp() * 1000))
    )
    nothing = True
    for page in pages:
        for event in page["events"]:
            nothing = False
            yield event["message"].rstrip()
    if nothing:
        raise NotFoundError(
            f"{group}: nothing was printed in the last {since}; --since 1d looks further back, --step shows what "
            "spark-submit said"
        )


def step_of(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """A step as EMR takes it. One that fails leaves the cluster and the other steps alone."""
    return {
        "Name": name,
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["spark-submit", *arguments]},
    }
