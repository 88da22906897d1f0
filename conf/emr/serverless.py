"""The same programs on EMR Serverless, where there is no cluster to keep."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from conf.emr.spark_submit import (
    ARCHIVE,
    LAUNCHER,
    Locations,
    as_conf,
    files_of,
    program_arguments,
    program_of,
    properties_of,
)
from conf.emr.stack import Stack
from conf.settings import Settings

_FAILED_ATTEMPTS_PER_HOUR = 4


def job(
    verb: str, settings: Settings, locations: Locations, outputs: Mapping[str, str], extra: Sequence[str] = ()
) -> dict[str, Any]:
    """What StartJobRun is asked for, apart from the application.

    A stream is a job in streaming mode: it has no time limit, and is started again when it fails, in another
    availability zone if need be. A batch job is tried once, as on YARN.

    Raises:
        SettingsError: there is no such verb.
    """
    program = program_of(verb)
    base = locations.application
    properties = properties_of(program) | {
        "spark.archives": f"{base}/dependencies.zip#{ARCHIVE}",
        "spark.submit.pyFiles": f"{base}/application.zip",
        "spark.files": ",".join(f"{base}/{name}" for name in files_of(program)),
        "spark.emr-serverless.driverEnv.PYTHONPATH": ARCHIVE,
        "spark.emr-serverless.driverEnv.PYSPARK_PYTHON": locations.python,
        "spark.emr-serverless.driverEnv.AWS_REGION": locations.region,
        "spark.executorEnv.PYSPARK_PYTHON": locations.python,
        # Sizes are bound to cores there: 4 GB at least for 2, 8 GB for 4, overhead included.
        "spark.driver.cores": "2",
        "spark.executor.memory": "3g",
    }
    retries = (
        {"retryPolicy": {"maxFailedAttemptsPerHour": _FAILED_ATTEMPTS_PER_HOUR}, "mode": "STREAMING"}
        if program.streams
        else {"retryPolicy": {"maxAttempts": 1}, "mode": "BATCH"}
    )
    return {
        "name": f"picture-features {verb}",
        "executionRoleArn": outputs["NodeRoleArn"],
        "executionTimeoutMinutes": 0,
        "jobDriver": {
            "sparkSubmit": {
                "entryPoint": f"{base}/{LAUNCHER}",
                "entryPointArguments": program_arguments(program, locations, extra),
                "sparkSubmitParameters": shlex.join(as_conf(properties | settings.spark.conf)),
            }
        },
        "configurationOverrides": {
            "monitoringConfiguration": {
                "cloudWatchLoggingConfiguration": {
                    "enabled": True,
                    "logGroupName": outputs["LogGroupName"],
                    "logTypes": {"SPARK_DRIVER": ["STDOUT", "STDERR"]},
                },
                "s3MonitoringConfiguration": {"logUri": outputs["Logs"]},
            }
        },
        "tags": {"application": "picture-features", "stack": outputs["LogGroupName"].rpartition("/")[2]},
        **retries,
    }


def shown(request: Mapping[str, Any]) -> str:
    """A job for a person to read before it is started."""
    return json.dumps(request, indent=2)


def start(stack: Stack, application: str, request: Mapping[str, Any]) -> str:
    """Start a job; returns its id."""
    run = stack.client("emr-serverless").start_job_run(applicationId=application, **request)
    return str(run["jobRunId"])


def state(stack: Stack, application: str, job: str) -> str:
    """State of a job, for a person: which attempt it is, and why it failed if it did."""
    run = stack.client("emr-serverless").get_job_run(applicationId=application, jobRunId=job)["jobRun"]
    attempt = f", attempt {run['attempt']}" if "attempt" in run else ""
    why = f": {run['stateDetails']}" if run.get("stateDetails") else ""
    return f"job          {job} {run['state']} {run.get('name', '')}{attempt}{why}"
