"""Destroy: the plan, with the command that brings back what goes, the steps, and what stays."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from botocore.exceptions import ClientError

from conf.emr import buckets, serverless
from conf.emr.cost import PRICES, metrics_of_alarms, read_prices
from conf.emr.options import COMPUTES, OfStackWithConsent, add_consent, add_stack, agreed, stack_of
from conf.emr.stack import (
    OURS,
    Compute,
    Stack,
    cluster_is_there,
    is_usable,
    outputs_of,
    parameters_of,
    template_of,
    yes_or_no,
)
from conf.errors import AppError, SettingsError
from conf.failures import code_of
from conf.plural import plural
from conf.settings import Settings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DestroyOptions(OfStackWithConsent):
    """The options of destroy.

    Attributes:
        compute: EMR Serverless or a cluster; None for both.
        data: whether to delete the data as well.
    """

    compute: Compute | None
    data: bool


def add_destroy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of destroy."""
    add_stack(parser)
    parser.add_argument("--compute", choices=COMPUTES, help="Only this one. Default: both.")
    parser.add_argument(
        "--data", action="store_true", help="Delete the buckets as well, with pictures, models, tables and logs."
    )
    add_consent(parser)


def destroy(settings: Settings, options: DestroyOptions) -> str | None:
    """Take down what runs programs, and with --data everything; returns what stays, and what it costs."""
    data = stack_of(settings, options)
    wanted: Sequence[Compute] = (options.compute,) if options.compute else COMPUTES
    there = [data.sibling(compute) for compute in wanted if data.sibling(compute).describe() is not None]
    plan = [line for one in there for line in (f"delete stack {one.full_name} in {data.region}", _again(one))]
    if options.data:
        if options.compute:
            raise SettingsError("destroy: --data deletes everything, and goes without --compute")
        plan += [
            f"delete stack {data.full_name}, and for ever all that is in",
            *(f"  {bucket}" for bucket in data.buckets().values()),
        ]
    if options.data and not there and data.describe() is None and not buckets.are_there(data):
        return f"there is nothing of {data.name} in {data.region}"
    if not plan:
        return f"there is nothing of {data.name} in {data.region} that runs programs\n{_what_stays(data)}"
    if not agreed("\n".join(plan), options):
        return None
    for stack in there:
        stack.wait_until_stable()
        if stack.describe() is not None:
            _stop(stack)
            stack.delete()
    if not options.data:
        _tell_who_takes(data)
        return _what_stays(data)
    data.wait_until_stable()
    deleted = buckets.empty(data)
    if data.describe() is not None:
        data.delete()
    return f"{data.name} is gone, with {plural(deleted, 'object')}. Its key can be restored for 30 days, at no cost"


def _tell_who_takes(data: Stack) -> None:
    """Have the alarm on the queue know whether a form is left that takes from it."""
    data.wait_until_stable()
    there, left = data.describe(), data.sibling("serverless").describe()
    if there is None or not is_usable(there) or not data.takes_changes():
        return
    taken = cluster_is_there(data) or (left is not None and serverless.reaches_queue(parameters_of(left)))
    if parameters_of(there).get("QueueIsTaken") != yes_or_no(given=taken):
        try:
            data.change({"QueueIsTaken": yes_or_no(given=taken)})
        except (AppError, ClientError) as error:
            _logger.warning("the alarm NotTakenIn is as it was until the next deploy: %s", error)


def _again(stack: Stack) -> str:
    """The command that brings a stack back with the parameters that somebody had set, which go with it."""
    parameters, template = parameters_of(stack.describe() or {}), template_of(stack.part)["Parameters"]
    chosen = {
        key: value
        for key, value in parameters.items()
        if key in template and not OURS.fullmatch(key) and value != str(template[key].get("Default", ""))
    }
    words = [word for key, value in sorted(chosen.items()) for word in ("--set", f"{key}={value}")]
    platform = ["--platform", parameters["Platform"]] if "Platform" in parameters else []
    return f"  to have it back as it is: {stack.command('deploy', '--compute', stack.part, *platform, *words)}"


def _stop(stack: Stack) -> None:
    """End what still runs, as far as deleting the stack does not."""
    if stack.part == "serverless" and "ApplicationId" in (outputs := outputs_of(stack.describe() or {})):
        if outputs["Schedules"] == "yes" and stack.takes_changes():
            try:
                stack.change({"Schedules": "no"})  # or one could start the application again while it is deleted
                again = stack.command("deploy", "--set", "Schedules=yes")
                _logger.info("the schedules are off from now on; if the stack stays, turn them on with %s", again)
            except (AppError, ClientError) as error:
                _logger.warning("the schedules stay until the stack is deleted: %s", error)
        try:
            serverless.Application(stack, outputs["ApplicationId"]).stop()
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":  # somebody has deleted it
                raise


def _what_stays(data: Stack) -> str:
    """The resources that are left, and their price."""
    if data.describe() is None:
        return "nothing stays"
    prices = read_prices(PRICES)
    lines, sum_ = [f"what stays of {data.name}, in USD a month:"], 0.0
    sizes = buckets.sizes(data)
    for bucket in data.buckets().values():
        gigabytes = sizes.get(bucket, 0.0) / 1e9
        usd = gigabytes * prices["s3"]["gigabyte_month"]
        sum_ += usd
        counted = f"{gigabytes:,.1f} GB" if bucket in sizes else "not counted by S3 yet"
        lines.append(f"  {bucket:<58}{counted:>22}{usd:>8,.2f}")
    alarms = metrics_of_alarms()
    for what, usd in (("key", prices["kms_month"]), (f"{alarms} metrics of alarms", alarms * prices["alarm_month"])):
        sum_ += usd
        lines.append(f"  {what:<80}{usd:>8,.2f}")
    return "\n".join([*lines, f"  {'sum':<80}{sum_:>8,.2f}", f"{data.command('destroy', '--data')} deletes it"])
