"""The programs on EMR Serverless: a job, its end, and the application, which must stop before it goes."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.session import get_session

from conf.emr.spark_submit import (
    ARCHIVE,
    LAUNCHER,
    Locations,
    as_conf,
    driver_environment,
    files_of,
    program_arguments,
    program_of,
    properties_of,
    scheduled,
)
from conf.emr.stack import Stack
from conf.errors import AppError
from conf.failures import code_of
from conf.settings import Settings

BATCH_MINUTES = 720
"""After how long a batch job is cancelled: it goes on at the next time of its schedule."""
_FAILED_ATTEMPTS_PER_HOUR = 4
_SHOWN = 10
_ACTIVE = ["SUBMITTED", "PENDING", "SCHEDULED", "RUNNING", "QUEUED", "CANCELLING"]
_ENDED_WELL, _ENDED_BADLY = ("SUCCESS",), ("FAILED", "CANCELLED")
_POLL_SECONDS = 10.0
_FALLS_APART = re.compile(r"""[\s'"\\]""")


def job(verb: str, settings: Settings, locations: Locations, role: str, extra: Sequence[str] = ()) -> dict[str, Any]:
    """The request of StartJobRun, apart from the application.

    A stream is a job in streaming mode: it has no time limit (0), and is started again when it fails, in another
    availability zone if need be. A batch job is tried once, as on YARN, and since release 7.11 has to have a limit.
    https://docs.aws.amazon.com/emr/latest/EMR-Serverless-UserGuide/considerations.html, .../jobs-resiliency.html

    Raises:
        SettingsError: there is no such verb.
    """
    program = program_of(verb)
    policy: dict[str, Any] = (
        {"retryPolicy": {"maxFailedAttemptsPerHour": _FAILED_ATTEMPTS_PER_HOUR}, "mode": "STREAMING"}
        if program.streams
        else {"retryPolicy": {"maxAttempts": 1}, "mode": "BATCH"}
    )
    return {
        "name": f"picture-features {verb}",
        "executionRoleArn": role,
        "executionTimeoutMinutes": 0 if program.streams else BATCH_MINUTES,
        "jobDriver": _driver(verb, settings, locations, extra),
        **policy,
    }


def _driver(verb: str, settings: Settings, locations: Locations, extra: Sequence[str]) -> dict[str, Any]:
    program = program_of(verb)
    base = locations.application
    # A job without work needs no executor; a stream keeps one, for rows within seconds. The default is 3 at the start,
    # by two properties, of which Spark takes the larger one:
    # https://docs.aws.amazon.com/emr/latest/EMR-Serverless-UserGuide/jobs-spark.html#spark-defaults
    executors = "1" if program.streams else "0"
    properties = properties_of(program) | {
        "spark.archives": f"{base}/dependencies.zip#{ARCHIVE}",
        "spark.submit.pyFiles": f"{base}/application.zip",
        "spark.emr-serverless.driverEnv.LAUNCH_FILES": ",".join(f"{base}/{name}" for name in files_of(program)),
        "spark.emr-serverless.driverEnv.PYTHONPATH": ARCHIVE,
        # https://docs.aws.amazon.com/emr/latest/EMR-Serverless-UserGuide/using-python-libraries.html
        "spark.emr-serverless.driverEnv.PYSPARK_DRIVER_PYTHON": locations.python,
        "spark.emr-serverless.driverEnv.PYSPARK_PYTHON": locations.python,
        "spark.executorEnv.PYSPARK_PYTHON": locations.python,
        # Sizes are bound to cores there: 4 GB at least for 2, 8 GB for 4, overhead included.
        "spark.driver.cores": "2",
        "spark.executor.memory": "3g",
        "spark.executor.instances": executors,
        "spark.dynamicAllocation.initialExecutors": executors,
        "spark.dynamicAllocation.minExecutors": executors,
    }
    properties |= {
        f"spark.emr-serverless.driverEnv.{name}": value for name, value in driver_environment(locations).items()
    }
    return {
        "sparkSubmit": {
            "entryPoint": f"{base}/{LAUNCHER}",
            "entryPointArguments": program_arguments(program, locations, extra),
            "sparkSubmitParameters": " ".join(map(_quoted, as_conf(properties | settings.spark.conf))),
        }
    }


def _quoted(word: str) -> str:
    """A word as AWS's own examples have it: in quotes only if it would fall apart, and not for the # of an archive."""
    return shlex.quote(word) if _FALLS_APART.search(word) else word


def scheduled_drivers(settings: Settings, locations: Locations) -> dict[str, str]:
    """The drivers of the jobs that come by themselves, as the parameters of the template, in JSON.

    EventBridge Scheduler wants the API's names with a capital, as in all its universal targets.
    """
    shape = get_session().get_service_model("emr-serverless").operation_model("StartJobRun").input_shape
    assert isinstance(shape, StructureShape)
    return {
        f"{verb.capitalize()}Job": json.dumps(
            _capitalized(_driver(verb, settings, locations, extra), shape.members["jobDriver"])
        )
        for verb, extra in scheduled(locations).items()
    }


def _capitalized(value: Any, shape: Shape) -> Any:
    """A value with the names of the API's members capitalized, and the keys of maps as they are."""
    if isinstance(shape, StructureShape):
        return {name[0].upper() + name[1:]: _capitalized(inner, shape.members[name]) for name, inner in value.items()}
    if isinstance(shape, ListShape):
        return [_capitalized(inner, shape.member) for inner in value]
    if isinstance(shape, MapShape):
        return {key: _capitalized(inner, shape.value) for key, inner in value.items()}
    return value


def reaches_queue(parameters: Mapping[str, str]) -> bool:
    """Whether jobs of a stack with these parameters are in a network.

    Without one, EMR Serverless blocks the way to the internet, where the addresses of SQS are:
    https://docs.aws.amazon.com/emr/latest/EMR-Serverless-UserGuide/vpc-access.html, and for Kinesis, which is reached
    in the same way, .../jobs-spark-streaming-connectors.html
    """
    return parameters.get("Network") == "yes" or bool(parameters.get("SubnetIds"))


def shown(request: Mapping[str, Any]) -> str:
    """A job for a person to read before it is started."""
    return json.dumps(request, indent=2)


@dataclass(frozen=True)
class Application:
    """An application of EMR Serverless.

    Attributes:
        stack: that it belongs to.
        id: as EMR names it.
    """

    stack: Stack
    id: str

    def start(self, request: Mapping[str, Any]) -> str:
        """Start a job; returns its id."""
        return str(self._client().start_job_run(applicationId=self.id, **request)["jobRunId"])

    def run(self, job: str) -> dict[str, Any]:
        """The description of a job by EMR."""
        return dict(self._client().get_job_run(applicationId=self.id, jobRunId=job)["jobRun"])

    def status(self) -> str:
        """State, and the latest jobs."""
        client = self._client()
        there = client.get_application(applicationId=self.id)["application"]
        jobs = client.list_job_runs(applicationId=self.id, maxResults=_SHOWN)["jobRuns"]
        lines = [
            f"application  {self.id} {there['state']} {there['releaseLabel']} {there.get('architecture', '')}".rstrip()
        ]
        return "\n".join([*lines, *map(describe, jobs)])

    def dashboard(self, job: str) -> str:
        """The address of Spark's UI of a job, for an hour."""
        return str(self._client().get_dashboard_for_job_run(applicationId=self.id, jobRunId=job)["url"])

    def wait(self, job: str, look: Callable[[], None]) -> dict[str, Any]:
        """Wait until a job has ended; returns what EMR says of it.

        Args:
            job: its id.
            look: called between two questions, and once at the end.

        Raises:
            AppError: it failed or was cancelled, with the reason that EMR gives.
        """
        while True:
            there = self.run(job)
            look()
            if there["state"] in _ENDED_WELL:
                return there
            if there["state"] in _ENDED_BADLY:
                raise AppError(f"job {job} is {there['state']}: {there.get('stateDetails') or 'EMR gives no reason'}")
            time.sleep(_POLL_SECONDS)

    def active(self) -> list[str]:
        """The names of the jobs that run or wait."""
        there = self._client().list_job_runs(applicationId=self.id, states=_ACTIVE)["jobRuns"]
        return [str(one.get("name") or one["id"]) for one in there]

    def stop(self) -> None:
        """Cancel what runs, and stop: EMR neither changes nor deletes an application that is started."""
        client = self._client()
        for page in client.get_paginator("list_job_runs").paginate(applicationId=self.id, states=_ACTIVE):
            for running in page["jobRuns"]:
                self._cancel(running["id"])
        while self.active():
            time.sleep(_POLL_SECONDS)
        if self._state() in ("STARTING", "STARTED"):
            client.stop_application(applicationId=self.id)
        while self._state() in ("STARTING", "STARTED", "STOPPING"):
            time.sleep(_POLL_SECONDS)

    def _cancel(self, job: str) -> None:
        try:
            self._client().cancel_job_run(applicationId=self.id, jobRunId=job)
        except ClientError as error:
            ending = ("CANCELLING", *_ENDED_WELL, *_ENDED_BADLY)
            if code_of(error) != "ValidationException" or self.run(job)["state"] not in ending:
                raise

    def _state(self) -> str:
        return str(self._client().get_application(applicationId=self.id)["application"]["state"])

    def _client(self) -> Any:
        return self.stack.client("emr-serverless")


def describe(run: Mapping[str, Any]) -> str:
    """A job in a line: which attempt it is, and why it failed if it did."""
    attempt = f", attempt {run['attempt']}" if run.get("attempt", 1) > 1 else ""
    why = f": {run['stateDetails']}" if run.get("stateDetails") else ""
    return f"job          {run.get('jobRunId') or run['id']} {run['state']} {run.get('name', '')}{attempt}{why}"
