"""Submit, status, logs, ui and stop: what an operator does with stacks that are there, and what is printed."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from conf.answers import write_out
from conf.emr import serverless
from conf.emr.application import EmrSettings, check_backbone, locations_of
from conf.emr.cluster import Cluster
from conf.emr.options import (
    COMPUTES,
    OfStack,
    OfStackWithConsent,
    add_compute,
    add_consent,
    add_settings,
    add_stack,
    agreed,
    compute_of,
    stack_of,
)
from conf.emr.serverless import Application
from conf.emr.spark_submit import CONFIG, SUBMITTED, Locations, by_hand, spark_submit_arguments
from conf.emr.stack import Compute, Stack, is_usable, outputs_of, parameters_of
from conf.emr.watching import Follower, driver_logs, last_hour
from conf.errors import SettingsError
from conf.settings import Settings, parse_duration


@dataclass(frozen=True)
class SubmitOptions(OfStackWithConsent):
    """The options of submit.

    Attributes:
        program: what to run.
        more: words for the program.
        compute: EMR Serverless or a cluster; None for the one that is there.
        settings: a file with the settings of the programs on EMR; None for those that were uploaded last.
        wait: whether to follow it to its end.
    """

    program: str
    more: Sequence[str]
    compute: Compute | None
    settings: Path | None
    wait: bool


@dataclass(frozen=True)
class LogsOptions(OfStack):
    """The options of logs.

    Attributes:
        since: how far to look back.
        job: only what this job printed; None for all.
        step: what this step printed; None for the drivers.
    """

    since: str
    job: str | None
    step: str | None


@dataclass(frozen=True)
class UiOptions(OfStack):
    """The options of ui.

    Attributes:
        job: on Serverless.
        application: on the cluster; without either, the History Server is meant.
    """

    job: str | None
    application: str | None


def add_submit_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of submit."""
    parser.add_argument("program", choices=SUBMITTED, help="What to run.")
    add_stack(parser)
    add_compute(parser)
    add_settings(parser)
    parser.add_argument("--wait", action="store_true", help="Follow it to its end, with what it prints.")
    add_consent(parser)


@dataclass(frozen=True)
class _Submission:
    """A job or step that is about to be started.

    Attributes:
        shown: for a person to read before.
        start: starts it; returns its id.
        wait: waits for the end of what has this id, and calls what it is given between two questions.
        logs: the option of logs that takes the id.
    """

    shown: str
    start: Callable[[], str]
    wait: Callable[[str, Callable[[], None]], object]
    logs: str


def submit(settings: Settings, options: SubmitOptions) -> str | None:
    """Start a program with its settings, and with --wait follow it to its end; returns its id.

    Raises:
        AppError: with --wait, it failed.
    """
    data = stack_of(settings, options)
    compute = compute_of(data, options.compute)
    there = compute.outputs()
    outputs = data.outputs()
    locations = locations_of(data, outputs, there["Platform"])
    if options.program == "fit":
        check_backbone(compute, locations)
    for_emr = EmrSettings.choose(data, options.settings, [locations.application])
    of = _on_serverless if compute.part == "serverless" else _on_cluster
    submission = of(compute, there, options, for_emr.settings, locations)
    where = f"{locations.application}/{CONFIG}"
    uploads = f"with the settings in {where}" if for_emr.stays else f"upload {for_emr.source} as {where}"
    if not agreed(f"{uploads}\n{submission.shown}", options):
        return None
    for_emr.upload(data, locations.application)
    follower = Follower(data, outputs["LogGroupName"])
    started = submission.start()
    if not options.wait:
        shows = data.command("logs", submission.logs, started)
        return f"{started}; {data.command('status')} shows its state, {shows} what it prints"
    sys.stderr.write(f"{started} has started; Ctrl-C ends only the waiting\n")
    submission.wait(started, follower)
    return f"{started} is done"


def _on_serverless(
    compute: Stack, there: dict[str, str], options: SubmitOptions, settings: Settings, locations: Locations
) -> _Submission:
    if not serverless.reaches_queue(parameters_of(compute.describe() or {})):
        if SUBMITTED[options.program].streams:
            raise SettingsError(
                f"submit {options.program}: EMR Serverless reaches the queue from a network only; "
                f"{compute.command('deploy', '--set', 'Network=yes')} makes one, and python -m conf.emr cost tells its "
                "price"
            )
        locations = replace(locations, queue=None)
    more = by_hand(options.program, settings, locations, options.more)
    application = Application(compute, there["ApplicationId"])
    request = serverless.job(options.program, settings, locations, there["JobRoleArn"], more)
    return _Submission(
        f"start on EMR Serverless application {application.id}\n{serverless.shown(request)}",
        lambda: application.start(request),
        application.wait,
        "--job",
    )


def _on_cluster(
    compute: Stack, there: dict[str, str], options: SubmitOptions, settings: Settings, locations: Locations
) -> _Submission:
    cluster = Cluster(compute, there["ClusterId"])
    more = by_hand(options.program, settings, locations, options.more)
    words = spark_submit_arguments(options.program, settings, locations, more)
    return _Submission(
        f"run on cluster {cluster.id}\nspark-submit {shlex.join(words)}",
        lambda: cluster.submit(f"picture-features {options.program}", words),
        cluster.wait,
        "--step",
    )


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of status."""
    add_stack(parser)


def status(settings: Settings, options: OfStack) -> str:
    """The programs that run, and their state."""
    data = stack_of(settings, options)
    described = data.describe()
    if described and not outputs_of(described):
        return data.unusable(described)
    output = data.outputs()["Output"]
    lines = [line for compute in COMPUTES for line in _status_of(data.sibling(compute))]
    return "\n".join(
        (*(lines or [f"nothing runs programs; {data.deploy_command} makes what does"]), *last_hour(data, output))
    )


def _status_of(stack: Stack) -> Iterator[str]:
    """The programs of one form, if it is there."""
    described = stack.describe()
    if described is None:
        return
    if not is_usable(described):
        yield stack.unusable(described)
        return
    there = outputs_of(described)
    yield (
        Application(stack, there["ApplicationId"]).status()
        if stack.part == "serverless"
        else Cluster(stack, there["ClusterId"]).status()
    )
    yield f"schedules    {'on' if there['Schedules'] == 'yes' else 'off'}"


def add_logs_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of logs."""
    add_stack(parser)
    parser.add_argument("--since", metavar="TIME", default="1h", help="How far to look back. Default: 1h.")
    parser.add_argument("--job", metavar="ID", help="Only what this job printed, on Serverless.")
    parser.add_argument("--step", metavar="ID", help="What this step printed, on the cluster, from the log archive.")


def logs(settings: Settings, options: LogsOptions) -> str | None:
    """The output of the drivers."""
    data = stack_of(settings, options)
    outputs = data.outputs()
    if options.step:
        there = data.sibling("cluster").outputs()
        return Cluster(data, there["ClusterId"]).step_log(outputs["Logs"], options.step)
    for line in driver_logs(data, outputs["LogGroupName"], _since(options.since), options.job or ""):
        write_out(f"{line}\n")
    return None


def _since(given: str) -> timedelta:
    try:
        return parse_duration(given)
    except ValueError as error:
        raise SettingsError(f"--since: {given!r} is not allowed: {error}") from error


def add_ui_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ui."""
    add_stack(parser)
    parser.add_argument("--job", metavar="ID", help="This job, on Serverless, while it runs and after.")
    parser.add_argument(
        "--application",
        metavar="ID",
        help="This application, on the cluster, while it runs; logs --step shows its id. Default: the History Server.",
    )


def ui(settings: Settings, options: UiOptions) -> str:
    """The address of Spark's UI, which AWS signs for whoever has the permission."""
    data = stack_of(settings, options)
    if options.job:
        stack = data.sibling("serverless")
        return Application(stack, stack.outputs()["ApplicationId"]).dashboard(options.job)
    stack = data.sibling("cluster")
    return Cluster(stack, stack.outputs()["ClusterId"]).ui(options.application)


def stop(settings: Settings, options: OfStackWithConsent) -> str | None:
    """Drain the stream and wait: from here, because a step would wait for room on a cluster that the stream fills."""
    stack = stack_of(settings, options)
    output = stack.outputs()["Output"]
    if not agreed(f"ask the stream that writes to {output} to finish its micro-batch and stop", options):
        return None
    command = [sys.executable, "-m", "streaming", "stop", "--output", output]
    asked = subprocess.run(
        command, env={**os.environ, "AWS_REGION": stack.region}, stdout=subprocess.PIPE, text=True, check=False
    )
    if asked.returncode:
        raise SystemExit(asked.returncode)  # it has said why
    return asked.stdout.strip()
