"""Package and deploy: the plan, what is said before it is carried out, and the steps in between."""

from __future__ import annotations

import argparse
import json
import logging
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from botocore.exceptions import BotoCoreError

from conf.emr import serverless
from conf.emr.application import PLATFORMS, EmrSettings, build_folder, check_built, is_built, locations_of, upload
from conf.emr.cluster import Cluster
from conf.emr.cost import PRICES, monthly_usd, read_prices
from conf.emr.options import (
    COMPUTES,
    OfStackWithConsent,
    add_consent,
    add_platform,
    add_settings,
    add_stack,
    agreed,
    stack_of,
)
from conf.emr.package import Platform, build
from conf.emr.permissions import explain
from conf.emr.preflight import check
from conf.emr.spark_submit import Locations, scheduled, spark_submit_arguments
from conf.emr.stack import (
    OURS,
    Compute,
    Part,
    Stack,
    cluster_is_there,
    is_going,
    is_usable,
    outputs_of,
    parameters_of,
    template_of,
    yes_or_no,
)
from conf.errors import PlatformError, SettingsError
from conf.plural import plural
from conf.settings import Settings

_logger = logging.getLogger(__name__)

_INSTANCE_TYPES = {"x86_64": "m6i.xlarge,m5.xlarge,m7i.xlarge", "aarch64": "m6g.xlarge,m7g.xlarge,m6gd.xlarge"}
_DEFAULT_PLATFORM = "aarch64"
_DRY_RUN_SECONDS = 5.0  # for an answer of AWS, which need not be there
_A_MILLION = 1e6
_FORMS: Mapping[Compute, str] = {"serverless": ", with Schedules=yes", "cluster": ""}
_OF_APPLICATION = (
    *("Platform", "ReleaseLabel", "MaximumVcpus", "MaximumGigabytes", "IdleMinutes"),
    *("Network", "SubnetIds", "SecurityGroupIds"),
)
"""The parameters of serverless.yaml that its resource Application depends on."""
_NOBODY_IS_TOLD = "  (nobody is told of failures and of the budget; --set AlarmEmail=me@example.org tells you)"


@dataclass(frozen=True)
class PackageOptions:
    """The options of package.

    Attributes:
        platform: the processors of the nodes.
        dry_run: whether to only say what would be done.
    """

    platform: Platform
    dry_run: bool


@dataclass(frozen=True)
class DeployOptions(OfStackWithConsent):
    """The options of deploy.

    Attributes:
        compute: EMR Serverless or a cluster.
        platform: the processors of the nodes; None for those that are there, or else the default.
        settings: a file with the settings of the programs on EMR; None for those that were uploaded last.
        set: parameters of the templates, as NAME=VALUE.
        no_check: whether not to look beforehand whether all is there.
    """

    compute: Compute
    platform: Platform | None
    settings: Path | None
    set: Sequence[str]
    no_check: bool


def add_package_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of package."""
    add_platform(parser, default=_DEFAULT_PLATFORM)
    parser.add_argument("--dry-run", action="store_true", help="Say what would be done, and do nothing.")


def package(_settings: Settings, options: PackageOptions) -> str | None:
    """Build what EMR runs; returns where it is. It costs nothing, so it does not ask."""
    folder = build_folder(options.platform)
    if options.dry_run:
        return f"would build {folder} from the lock file, for {options.platform}"
    built = build(options.platform, folder)
    return "\n".join(f"{file}  {file.stat().st_size / 1e6:,.1f} MB" for file in built.files())


def add_deploy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of deploy."""
    add_stack(parser)
    parser.add_argument(
        "--compute", choices=COMPUTES, default=COMPUTES[0], help="EMR Serverless, the default, or a cluster."
    )
    add_platform(parser, default=None)
    add_settings(parser)
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="A parameter of conf/emr/data.yaml, serverless.yaml or cluster.yaml, like AlarmEmail=me@example.org; may "
        "be given often. What is not given stays as it is.",
    )
    parser.add_argument("--no-check", action="store_true", help="Do not look beforehand whether all is there.")
    add_consent(parser)


def deploy(settings: Settings, options: DeployOptions) -> str | None:
    """Make both stacks or change them, and upload the application; returns where everything is.

    Raises:
        PlatformError: the account or the region lacks something that is needed.
    """
    data = stack_of(settings, options)
    compute = data.sibling(options.compute)
    former, unreached = _former(data, compute, options)
    platform = options.platform or former[compute.part].get("Platform", _DEFAULT_PLATFORM)
    folder = build_folder(platform)
    if not options.dry_run:
        check_built(folder)
    if not unreached:
        for stack in (data, compute):
            stack.check_can_be_made()
    applications = None if unreached else outputs_of(data.describe() or {}).get("Applications")
    folders = [f"{applications}/{one}" for one in dict.fromkeys((platform, *PLATFORMS))] if applications else []
    for_emr = EmrSettings.choose(data, options.settings, folders)
    given = _by_template(_pairs(options.set), compute.part)
    common = {"Name": data.name, "AllowNonEu": yes_or_no(given=options.allow_non_eu)}
    of_compute = {
        **common,
        "Platform": platform,
        **_instance_types(compute.part, platform, former),
        **given[compute.part],
    }
    stays = unreached or compute.takes_changes()  # else it is deleted first
    _check_parameters(compute, former[compute.part] if stays else {}, of_compute)
    reaches_queue = compute.part == "cluster" or serverless.reaches_queue({**former[compute.part], **of_compute})
    queue_is_taken = reaches_queue or (not unreached and cluster_is_there(data))
    of_data = {**common, "QueueIsTaken": yes_or_no(given=queue_is_taken), **given["data"]}
    if not options.no_check and not unreached:
        _check(compute, {**former[compute.part], **of_compute})
    plan = [
        *unreached,
        *_changes(data, former["data"], of_data),
        *([] if {**former["data"], **of_data}.get("AlarmEmail") else [_NOBODY_IS_TOLD]),
        *_uploads(folder, for_emr),
        *_changes(compute, former[compute.part], of_compute),
        *([] if unreached else _running(compute, {**former[compute.part], **of_compute})),
        _cost(options.compute),
    ]
    if not agreed("\n".join(plan), options):
        return None
    for stack in (data, compute):
        stack.wait_until_stable()
    data.apply(of_data)
    outputs = data.outputs()
    locations = locations_of(data, outputs, platform)
    upload(data, folder, for_emr, locations.application)
    _wait_until_stable(compute)
    jobs = _jobs(compute.part, for_emr.settings, locations if reaches_queue else replace(locations, queue=None))
    compute.apply({"KeyArn": outputs["KeyArn"], **of_compute, **jobs, **_generation(compute)})
    everything = {**outputs, **compute.outputs()}
    lines = [f"{key:<14}{value}" for key, value in sorted(everything.items())]
    return "\n".join([*lines, *_next(data, compute, everything)])


def _former(data: Stack, compute: Stack, options: DeployOptions) -> tuple[dict[Part, dict[str, str]], list[str]]:
    """The parameters of the stacks that are there; one that is being deleted leaves none.

    In a dry run AWS need not be reached: then nothing is there, and a line says why.
    """
    asked = [data, compute]
    if options.dry_run:
        asked = [replace(one, connection=one.connection.hasty(_DRY_RUN_SECONDS)) for one in asked]
    try:
        described = {one.part: one.describe() for one in asked}
    except BotoCoreError as error:
        if not options.dry_run:
            raise
        why = str(explain(error) or error).removeprefix("AWS: ")
        return {one.part: {} for one in asked}, [f"not compared with what is there, and not checked: {why}"]
    staying = {part: there for part, there in described.items() if there and not is_going(there)}
    return {one.part: parameters_of(staying.get(one.part, {})) for one in asked}, []


def _uploads(folder: Path, settings: EmrSettings) -> Iterator[str]:
    yield f"upload {folder}{'' if settings.stays else f' and {settings.source}'}"
    if settings.stays:
        yield f"  (the settings stay as they are in {settings.source}; --settings gives others)"
    if not is_built(folder):  # in a dry run
        yield f"  (python -m conf.emr package --platform {folder.name} builds the former first)"


def _running(compute: Stack, parameters: Mapping[str, str]) -> Iterator[str]:
    """A line on the jobs of Serverless that run.

    Raises:
        PlatformError: the application is to be changed meanwhile, which EMR refuses.
    """
    there = compute.describe()
    if compute.part != "serverless" or there is None or not is_usable(there):
        return
    running = serverless.Application(compute, outputs_of(there)["ApplicationId"]).active()
    if not running:
        return
    former = parameters_of(there)
    if changed := [name for name in _OF_APPLICATION if name in parameters and parameters[name] != former.get(name)]:
        raise PlatformError(
            f"deploy: another {' and '.join(changed)} changes the application, which EMR refuses while a job runs "
            f"({', '.join(running)}): stop the stream, or wait for the job"
        )
    yield (
        f"  (while {', '.join(running)} runs: an executor that joins it, and its next attempt, take the code that is "
        "uploaded now; to have it of one version, stop it first, and submit it again)"
    )


def _cost(compute: Compute) -> str:
    """What a month costs, for the plan."""
    prices = read_prices(PRICES)
    idle, busy = (monthly_usd(compute, pictures, prices) for pictures in (0.0, _A_MILLION))
    return (
        f"a month costs some {idle:,.0f} USD while no picture comes{_FORMS[compute]}, and {busy:,.0f} with a million\n"
        f"(prices of {prices['region']}; python -m conf.emr cost --pictures 1e6 has the items)"
    )


def _next(data: Stack, compute: Stack, outputs: Mapping[str, str]) -> Iterator[str]:
    if parameters_of(data.describe() or {}).get("AlarmEmail"):
        yield "confirm the mail of AWS Notifications, or no alarm reaches you"
    ends = parameters_of(compute.describe() or {}).get("Purpose") == "batch"  # and takes no schedules
    if outputs["Schedules"] == "no" and not ends:
        yield f"nothing runs by itself yet; once {data.command('submit', 'fit')} has made a model,"
        yield f"{compute.command('deploy', '--compute', compute.part, '--set', 'Schedules=yes')} turns the schedules on"


def _check(compute: Stack, parameters: Mapping[str, str]) -> None:
    defaults = {name: str(one.get("Default", "")) for name, one in template_of(compute.part)["Parameters"].items()}
    if missing := check(compute, {**defaults, **parameters}):
        for one in missing:
            _logger.error("%s", one)
        raise PlatformError(
            f"deploy: {plural(len(missing), 'check')} failed; fix what is named, or deploy all the same with --no-check"
        )


def _check_parameters(compute: Stack, former: Mapping[str, str], parameters: Mapping[str, str]) -> None:
    """Refuse what an application cannot be changed to, what would be ignored, and what the template refuses later.

    Raises:
        SettingsError: it loses its network, or has two; or a cluster that ends has schedules.
    """
    wanted = {**former, **parameters}
    if serverless.reaches_queue(former) and not serverless.reaches_queue(wanted):
        destroy = compute.command("destroy", "--compute", compute.part)
        raise SettingsError(
            f"--set: an application that is in a network is not allowed to leave it; {destroy} takes it down, and "
            "deploy makes one without"
        )
    if wanted.get("Purpose") == "batch" and wanted.get("Schedules") == "yes":
        raise SettingsError(
            "--set: Schedules=yes is not allowed beside Purpose=batch, whose cluster is not there at their times; set "
            "Schedules=no"
        )
    if wanted.get("Network") == "yes" and wanted.get("SubnetIds"):
        raise SettingsError(
            f"--set: SubnetIds={wanted['SubnetIds']} is not allowed beside Network=yes, which makes a network; give "
            "SubnetIds= for that, or no Network=yes for yours"
        )


def _by_template(given: Mapping[str, str], compute: Part) -> dict[Part, dict[str, str]]:
    """Each parameter to the template that has it; those that deploy sets itself are none of them."""
    known = {
        part: {name for name in template_of(part)["Parameters"] if not OURS.fullmatch(name)}
        for part in cast("tuple[Part, ...]", ("data", compute))
    }
    for name in given:
        if not any(name in parameters for parameters in known.values()):
            names = sorted({name for parameters in known.values() for name in parameters})
            raise SettingsError(f"--set: there is no parameter {name!r}; choose from {', '.join(names)}")
    return {
        part: {name: value for name, value in given.items() if name in parameters} for part, parameters in known.items()
    }


def _changes(stack: Stack, former: Mapping[str, str], parameters: Mapping[str, str]) -> list[str]:
    changed = {key: value for key, value in parameters.items() if former.get(key) != value}
    return [
        f"{'change' if former else 'make'} stack {stack.full_name} in {stack.region}",
        *([] if former else [_resources(stack.part)]),
        *(f"  {key} = {value}" for key, value in changed.items()),
    ]


def _resources(part: Part) -> str:
    """The resources of a template by kind; parameters decide about some of them."""
    kinds = Counter(one["Type"].removeprefix("AWS::") for one in template_of(part)["Resources"].values())
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return textwrap.fill(f"of at most {listed}", 100, initial_indent="  ", subsequent_indent="  ")


def _instance_types(part: Part, platform: str, former: Mapping[Part, Mapping[str, str]]) -> dict[str, str]:
    """For the processors, where the user has not chosen others."""
    if part != "cluster" or former[part].get("Platform") == platform:
        return {}
    return {"InstanceTypes": _INSTANCE_TYPES[platform]}


def _jobs(part: Part, settings: Settings, locations: Locations) -> dict[str, str]:
    """The jobs that come by schedule, as the template takes them."""
    if part == "serverless":
        return serverless.scheduled_drivers(settings, locations)
    return {
        f"{verb.capitalize()}Arguments": json.dumps(
            ["spark-submit", *spark_submit_arguments(verb, settings, locations, extra)]
        )
        for verb, extra in scheduled(locations).items()
    }


def _wait_until_stable(compute: Stack) -> None:
    """Stop an application on which nothing runs: EMR changes none that is started."""
    if compute.part == "serverless" and compute.describe() is not None and compute.takes_changes():
        application = serverless.Application(compute, compute.outputs()["ApplicationId"])
        if not application.active():
            application.stop()


def _generation(compute: Stack) -> dict[str, str]:
    """A new cluster, if the present one has ended by itself."""
    if compute.part != "cluster" or compute.describe() is None or not compute.takes_changes():
        return {}
    if not Cluster(compute, compute.outputs()["ClusterId"]).has_ended():
        return {}
    return {"Generation": datetime.now(UTC).strftime("%Y%m%d-%H%M%S")}


def _pairs(given: Sequence[str]) -> dict[str, str]:
    for pair in given:
        if "=" not in pair:
            raise SettingsError(f"--set: {pair!r} is not allowed: give NAME=VALUE")
    return dict(pair.split("=", 1) for pair in given)
