"""Package, deploy and destroy: the plan, what is said before it is carried out, and the steps in between."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from conf.emr.application import PLATFORMS, build_folder, check_built, on_cluster, planned_locations, upload
from conf.emr.cluster import Cluster
from conf.emr.options import add_consent, add_platform, add_settings, add_stack, agreed, stack_of
from conf.emr.package import build
from conf.emr.spark_submit import spark_submit_arguments
from conf.emr.stack import Stack, parameters_of
from conf.errors import SettingsError
from conf.settings import Settings

_INSTANCE_TYPES = {"x86_64": "m6i.xlarge", "aarch64": "m6g.xlarge"}
_SHOWN = 80
# A sample of the whole history, and a model that becomes the current one only if it is not worse.
_REFIT = ("--limit", "100000", "--promote", "if-not-worse")
_NOBODY_IS_TOLD = "  (nobody is told of alarms and of the budget; --set AlarmEmail=me@example.org tells you)"


def add_package_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of package."""
    add_platform(parser, default=PLATFORMS[0])
    parser.add_argument("--dry-run", action="store_true", help="Say what would be done, and do nothing.")


def package(_settings: Settings, arguments: argparse.Namespace) -> str | None:
    """Build both archives; returns where they are. It costs nothing, so it does not ask."""
    folder = build_folder(arguments.platform)
    if arguments.dry_run:
        return f"would build {folder} from the lock file, for {arguments.platform}"
    built = build(arguments.platform, folder)
    return "\n".join(f"{file}  {file.stat().st_size / 1e6:,.1f} MB" for file in (built.code, built.dependencies))


def add_deploy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of deploy."""
    add_stack(parser)
    add_platform(parser, default=None)
    add_settings(parser)
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="A parameter of conf/emr/template.yaml, like AlarmEmail=me@example.org; may be given often.",
    )
    add_consent(parser)


def deploy(settings: Settings, arguments: argparse.Namespace) -> str | None:
    """Make the stack or change it, and upload the application; returns where everything is."""
    stack = stack_of(settings, arguments)
    there = stack.describe()
    former = parameters_of(there) if there else {}
    platform = arguments.platform or former.get("Platform", PLATFORMS[0])
    folder = build_folder(platform)
    check_built(folder)
    parameters = {
        "Compute": "yes",
        "Platform": platform,
        "AllowNonEu": "yes" if arguments.allow_non_eu else "no",
        **_instance_type(platform, former),
        **_schedules(stack, platform, on_cluster(arguments.settings)),
        **(_generation(stack) if there else {}),
        **_pairs(arguments.set),
    }
    changed = {key: value for key, value in parameters.items() if former.get(key) != value}
    plan = [
        f"{'change' if there else 'make'} stack {stack.name} in {stack.region}",
        *(f"  {key} = {value if len(value) < _SHOWN else f'{value[:_SHOWN]}...'}" for key, value in changed.items()),
        *([] if {**former, **parameters}.get("AlarmEmail") else [_NOBODY_IS_TOLD]),
        f"upload {folder} and {arguments.settings}",
        "the cluster costs money for as long as it runs; python -m conf.emr cost tells how much",
    ]
    if not agreed("\n".join(plan), arguments):
        return None
    stack.apply(parameters)
    outputs = stack.outputs()
    upload(stack, folder, arguments.settings, outputs["Application"])
    return "\n".join(f"{key:<13}{value}" for key, value in sorted(outputs.items()))


def _instance_type(platform: str, former: Mapping[str, str]) -> dict[str, str]:
    """For the processors, where the user has not chosen another."""
    return {} if former.get("Platform") == platform else {"InstanceType": _INSTANCE_TYPES[platform]}


def _schedules(stack: Stack, platform: str, settings: Settings) -> dict[str, str]:
    """The steps that come by themselves, as the template takes them."""
    locations = planned_locations(stack, platform)
    refit = spark_submit_arguments("refit", settings, locations, _REFIT)
    reconcile = spark_submit_arguments("reconcile", settings, locations, ("--enqueue",))
    return {
        "RefitArguments": json.dumps(["spark-submit", *refit]),
        "ReconcileArguments": json.dumps(["spark-submit", *reconcile]),
    }


def _generation(stack: Stack) -> dict[str, str]:
    """A new cluster, if the present one has ended by itself."""
    outputs = stack.outputs()
    if "ClusterId" not in outputs or not Cluster.of(stack, outputs).has_ended():
        return {}
    return {"Generation": datetime.now(UTC).strftime("%Y%m%d-%H%M%S")}


def _pairs(given: Sequence[str]) -> dict[str, str]:
    for pair in given:
        if "=" not in pair:
            raise SettingsError(f"--set: {pair!r} is not allowed: give NAME=VALUE")
    return dict(pair.split("=", 1) for pair in given)


def add_destroy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of destroy."""
    add_stack(parser)
    parser.add_argument(
        "--data", action="store_true", help="Delete the buckets as well, with pictures, models, tables and logs."
    )
    add_consent(parser)


def destroy(settings: Settings, arguments: argparse.Namespace) -> str | None:
    """End the cluster and its network, or with --data delete everything; returns what is left.

    Raises:
        SettingsError: without --data there is nothing that could be done.
    """
    stack = stack_of(settings, arguments)
    changes = stack.takes_changes()
    if not arguments.data:
        if not changes:
            raise SettingsError(
                f"destroy: {stack.name} was not made, or not deleted, to the end, and CloudFormation changes it no "
                "more; give --data, which deletes all that is left of it"
            )
        plan = (
            f"end the cluster of {stack.name} in {stack.region}, with its network, schedules and alarms\n"
            "buckets, tables, queue and key stay; deploy brings the rest back"
        )
        if not agreed(plan, arguments):
            return None
        stack.apply({"Compute": "no"})
        return f"{stack.name} has no cluster any more; destroy --data deletes the rest"
    buckets = "\n".join(f"  {bucket}" for bucket in stack.buckets())
    plan = f"end the cluster of {stack.name} in {stack.region}, and delete for ever all that is in\n{buckets}"
    if not agreed(plan, arguments):
        return None
    if changes:
        stack.apply({"Compute": "no"})  # first, or what still runs would write while the buckets are emptied
    deleted = stack.empty_buckets()
    stack.delete()
    return f"{stack.name} is gone, with {deleted:,} objects; its key can be had back for 30 days"
