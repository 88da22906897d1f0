"""The cluster of a stack: its steps, their state, and what they print, from EMR and the log archive."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from conf.emr.application import bucket_and_key
from conf.emr.stack import Stack
from conf.errors import AppError, InputError, NotFoundError
from conf.failures import code_of

_STEPS_SHOWN = 10
_ENDED = ("TERMINATING", "TERMINATED", "TERMINATED_WITH_ERRORS")
_POLL_SECONDS = 10.0
_APPLICATION = re.compile(r"application_\d+_\d+")
_DRIVERS_OUTPUT = re.compile(r"container_(e\d+_)?\d+_\d+_\d+_000001/(stdout|stderr)\.gz$")  # the first of an attempt


@dataclass(frozen=True)
class Cluster:
    """The cluster of a stack.

    Attributes:
        stack: that it belongs to.
        id: as EMR names it.
    """

    stack: Stack
    id: str

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
            raise NotFoundError(
                f"cluster {self.id} has ended; {self.stack.sibling('cluster').deploy_command} makes another"
            )
        step = step_of(name, arguments)
        added = self.stack.client("emr").add_job_flow_steps(JobFlowId=self.id, Steps=[step])
        return str(added["StepIds"][0])

    def status(self) -> str:
        """State, nodes, the latest steps."""
        emr = self.stack.client("emr")
        cluster = self._describe()
        why = cluster["Status"].get("StateChangeReason", {}).get("Message", "")
        steps = emr.list_steps(ClusterId=self.id)["Steps"][:_STEPS_SHOWN]
        lines = [f"cluster      {self.id} {cluster['Status']['State']}{f': {why}' if why else ''}"]
        lines += self._fleets()
        lines += [f"step         {step['Id']} {step['Status']['State']} {step['Name']}" for step in steps]
        return "\n".join(lines)

    def _fleets(self) -> Iterator[str]:
        for fleet in self.stack.client("emr").list_instance_fleets(ClusterId=self.id)["InstanceFleets"]:
            yield (
                f"nodes        {fleet['InstanceFleetType'].lower()} {fleet['ProvisionedOnDemandCapacity']} on demand, "
                f"{fleet['ProvisionedSpotCapacity']} spot"
            )

    def _describe(self) -> dict[str, Any]:
        return dict(self.stack.client("emr").describe_cluster(ClusterId=self.id)["Cluster"])

    def wait(self, step: str, look: Callable[[], None]) -> None:
        """Wait until a step has ended.

        Args:
            step: its id.
            look: called between two questions, and once at the end.

        Raises:
            AppError: it failed or was cancelled, with the reason that EMR gives.
        """
        while True:
            status = self.stack.client("emr").describe_step(ClusterId=self.id, StepId=step)["Step"]["Status"]
            look()
            if status["State"] == "COMPLETED":
                return
            if status["State"] in ("FAILED", "CANCELLED", "INTERRUPTED"):
                shows = f"{self.stack.command('logs', '--step', step)} shows why"
                why = status.get("FailureDetails", {}).get("Reason") or shows
                raise AppError(f"step {step} is {status['State']}: {why}")
            time.sleep(_POLL_SECONDS)

    def ui(self, application: str | None) -> str:
        """The address, for some minutes, of Spark's UI of a running application, or of what ran.

        Args:
            application: as YARN names it; None for the History Server.
        """
        kind = (
            {"OnClusterAppUIType": "ApplicationMaster", "ApplicationId": application}
            if application
            else {"OnClusterAppUIType": "SparkHistoryServer"}
        )
        while True:
            answer = self.stack.client("emr").get_on_cluster_app_ui_presigned_url(ClusterId=self.id, **kind)
            if answer.get("PresignedURLReady"):
                return str(answer["PresignedURL"])
            time.sleep(_POLL_SECONDS)

    def step_log(self, archive: str, step: str) -> str:
        """The output of spark-submit for a step, and that of its driver, from the archive, which is minutes behind.

        Raises:
            InputError: it is not there, or not yet.
        """
        bucket, key = bucket_and_key(archive, f"{self.id}/steps/{step}/stderr.gz")
        try:
            said = self._archived(bucket, key)
        except ClientError as error:
            if code_of(error) == "NoSuchKey":
                raise InputError(
                    f"s3://{bucket}/{key} is not there; EMR writes it up to five minutes later, "
                    f"{self.stack.command('status')} lists the steps"
                ) from None
            raise
        parts = [said]
        if application := _APPLICATION.search(said):
            of_driver = bucket_and_key(archive, f"{self.id}/containers/{application[0]}/")[1]
            pages = self.stack.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=of_driver)
            names = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
            parts += [self._archived(bucket, name) for name in names if _DRIVERS_OUTPUT.search(name)]
        return "\n".join(parts)

    def _archived(self, bucket: str, key: str) -> str:
        body = self.stack.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return gzip.decompress(body).decode(errors="replace").rstrip()


def step_of(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """A step as EMR takes it. One that fails leaves the cluster and the other steps alone."""
    return {
        "Name": name,
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["spark-submit", *arguments]},
    }
