"""Submit, status, logs and stop: what an operator does with a stack that is there, and what is printed."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from datetime import timedelta

from conf.emr import serverless
from conf.emr.application import check_backbone, locations_of, on_cluster, upload_settings
from conf.emr.cluster import Cluster, driver_logs, last_hour
from conf.emr.options import add_consent, add_serverless, add_settings, add_stack, agreed, stack_of
from conf.emr.spark_submit import CONFIG, PROGRAMS, spark_submit_arguments
from conf.errors import SettingsError
from conf.settings import Settings, parse_duration


def add_submit_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of submit."""
    parser.add_argument("program", choices=PROGRAMS, help="What to run.")
    add_stack(parser)
    add_settings(parser)
    add_serverless(parser)
    add_consent(parser)


def submit(settings: Settings, arguments: argparse.Namespace) -> str | None:
    """Start a program with its settings, as a step on the cluster or as a job on EMR Serverless; returns its id."""
    stack = stack_of(settings, arguments)
    outputs = stack.outputs()
    locations = locations_of(stack, outputs)
    for_cluster = on_cluster(arguments.settings)
    name = f"picture-features {arguments.program}"
    if arguments.program == "fit":
        check_backbone(stack, locations)
    uploads = f"upload {arguments.settings} as {locations.application}/{CONFIG}"
    if arguments.serverless:
        job = serverless.job(arguments.program, for_cluster, locations, outputs, arguments.more)
        plan = f"{uploads}\nstart {name} on EMR Serverless application {arguments.serverless}\n{serverless.shown(job)}"
        if not agreed(plan, arguments):
            return None
        upload_settings(stack, arguments.settings, locations)
        return serverless.start(stack, arguments.serverless, job)
    words = spark_submit_arguments(arguments.program, for_cluster, locations, arguments.more)
    cluster = Cluster.of(stack, outputs)
    if not agreed(f"{uploads}\nrun on cluster {cluster.id}\nspark-submit {shlex.join(words)}", arguments):
        return None
    upload_settings(stack, arguments.settings, locations)
    step = cluster.submit(name, words)
    return f"{step}; python -m conf.emr status shows its state, logs what it prints"


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of status."""
    add_stack(parser)
    add_serverless(parser)
    parser.add_argument("--job", metavar="ID", help="The job on that application, as submit printed it.")


def status(settings: Settings, arguments: argparse.Namespace) -> str:
    """What runs, and how it is.

    Raises:
        SettingsError: of --serverless and --job one is missing.
    """
    if bool(arguments.serverless) != bool(arguments.job):
        raise SettingsError("status: --serverless APPLICATION_ID and --job ID belong together; give both, or neither")
    stack = stack_of(settings, arguments)
    outputs = stack.outputs()
    if arguments.job:
        runs = serverless.state(stack, arguments.serverless, arguments.job)
    elif "ClusterId" in outputs:
        runs = Cluster.of(stack, outputs).status()
    else:
        runs = "cluster      none; python -m conf.emr deploy makes one"
    return "\n".join((runs, *last_hour(stack, outputs["Output"])))


def add_logs_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of logs."""
    add_stack(parser)
    parser.add_argument("--since", metavar="TIME", default="1h", help="How far to look back. Default: 1h.")
    parser.add_argument("--step", metavar="ID", help="What spark-submit said of this step, from the log archive.")


def logs(settings: Settings, arguments: argparse.Namespace) -> str | None:
    """What the drivers print."""
    stack = stack_of(settings, arguments)
    outputs = stack.outputs()
    if arguments.step:
        return Cluster.of(stack, outputs).step_log(outputs["Logs"], arguments.step)
    for line in driver_logs(stack, outputs["LogGroupName"], _since(arguments.since)):
        sys.stdout.write(f"{line}\n")
    return None


def _since(given: str) -> timedelta:
    try:
        return parse_duration(given)
    except ValueError as error:
        raise SettingsError(f"--since: {given!r} is not allowed: {error}") from error


def stop(settings: Settings, arguments: argparse.Namespace) -> str | None:
    """Drain the stream and wait: from here, because a step would wait for room on a cluster that the stream fills."""
    stack = stack_of(settings, arguments)
    output = stack.outputs()["Output"]
    if not agreed(f"ask the stream that writes to {output} to finish its micro-batch and stop", arguments):
        return None
    command = [sys.executable, "-m", "streaming", "stop", "--output", output]
    asked = subprocess.run(
        command, env={**os.environ, "AWS_REGION": stack.region}, stdout=subprocess.PIPE, text=True, check=False
    )
    if asked.returncode:
        raise SystemExit(asked.returncode)  # it has said why
    return asked.stdout.strip()
