"""Checks, before deploy makes anything, whether region and account have what the templates need.

It costs nothing and takes seconds. What cannot be looked at is told, and refuses nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from conf.emr.permissions import CREATION, PERMISSIONS
from conf.emr.stack import Part, Stack, template_of
from conf.failures import code_of

_logger = logging.getLogger(__name__)

_ABSENT = ("InvalidRequestException", "ValidationException", "TypeNotFoundException", "NoSuchEntity")
_BUDGET, _WITHOUT_BUDGETS = "AWS::Budgets::Budget", ("eu-north-1", "eu-south-1", "eu-south-2")  # as in data.yaml
_VCPUS_PER_NODE = 4
_DRIVER_AND_EXECUTOR = 6
_QUOTAS = {  # https://docs.aws.amazon.com/general/latest/gr/ec2-service.html, .../emr.html
    "cores on EMR Serverless": ("emr-serverless", "L-D05C8A75"),
    "cores on demand": ("ec2", "L-1216C47A"),
    "cores on spot": ("ec2", "L-34B43A08"),
}
_OF_OTHERS: Mapping[Part, tuple[str, ...]] = {
    "data": (),
    "serverless": ("elasticmapreduce:", "ec2:"),
    "cluster": ("emr-serverless:",),
}
"""The services that only the other form calls."""
_ACTION = re.compile(r"[\w-]+:\w+")
_ASSUMED_ROLE = re.compile(r"arn:(?P<partition>[\w-]+):sts::(?P<account>\d+):assumed-role/(?P<role>[^/]+)/.+")

Parameters = Mapping[str, str]


def check(compute: Stack, parameters: Parameters) -> list[str]:
    """The things that are missing, each in a line with the command that fixes it.

    Args:
        compute: the stack that is to run programs.
        parameters: its parameters, as they will be.
    """
    checks: list[Callable[[Stack, Parameters], Iterator[str]]] = [_release, _types, _quotas, _rights]
    if compute.part == "cluster":
        checks += [_instance_types, _spot_role]
    with ThreadPoolExecutor(len(checks)) as pool:
        return [
            missing for found in pool.map(lambda one: _carefully(one, compute, parameters), checks) for missing in found
        ]


def _carefully(one: Callable[[Stack, Parameters], Iterator[str]], stack: Stack, parameters: Parameters) -> list[str]:
    try:
        return [*one(stack, parameters)]
    except (ClientError, BotoCoreError, ResponseParserError) as error:
        what = code_of(error) if isinstance(error, ClientError) else type(error).__name__
        _logger.info("not checked: %s (%s)", (one.__doc__ or "").partition(".")[0], what)
        return []


def _release(stack: Stack, parameters: Parameters) -> Iterator[str]:
    """Whether the region has the release."""
    label = parameters["ReleaseLabel"]
    if not _is_there(lambda: stack.client("emr").describe_release_label(ReleaseLabel=label)):
        yield (
            f"{stack.region} has no release {label}: aws emr list-release-labels --filters Prefix=emr-spark-8 --region "
            f"{stack.region} lists those that --set ReleaseLabel takes"
        )


def _types(stack: Stack, parameters: Parameters) -> Iterator[str]:
    """Whether CloudFormation has the types of resources there."""
    kinds = _kinds(stack, parameters)
    if stack.region in _WITHOUT_BUDGETS:
        kinds.discard(_BUDGET)
    formation = stack.client("cloudformation")
    for kind in sorted(kinds):
        if not _is_there(lambda kind=kind: formation.describe_type(Type="RESOURCE", TypeName=kind)):  # type: ignore[misc]
            yield f"CloudFormation has no {kind} in {stack.region}: deploy --region takes another region"


def _kinds(stack: Stack, parameters: Parameters) -> set[str]:
    """The types of what the templates make, without those of a network that nobody asked for."""
    templates = (template_of("data"), template_of(stack.part))
    kinds = {one["Type"] for template in templates for one in template["Resources"].values()}
    if stack.part == "serverless" and parameters.get("Network") != "yes":
        kinds = {kind for kind in kinds if not kind.startswith("AWS::EC2::")}
    return kinds


def _quotas(stack: Stack, parameters: Parameters) -> Iterator[str]:
    """Whether the quotas of cores allow what is wanted."""
    if stack.part == "serverless":
        wanted = {"cores on EMR Serverless": max(int(parameters["MaximumVcpus"]), _DRIVER_AND_EXECUTOR)}
    else:
        fixed = int(parameters["CoreNodes"]) + 1
        spot = int(parameters["MaximumNodes"]) - int(parameters["CoreNodes"])
        wanted = {"cores on demand": fixed * _VCPUS_PER_NODE, "cores on spot": spot * _VCPUS_PER_NODE}
    for name, need in wanted.items():
        service, quota = _QUOTAS[name]
        answer = stack.client("service-quotas").get_service_quota(ServiceCode=service, QuotaCode=quota)
        if answer["Quota"]["Value"] < need:
            yield (
                f"the quota of {name} is {answer['Quota']['Value']:g}, and {need} are needed: aws service-quotas "
                f"request-service-quota-increase --service-code {service} --quota-code {quota} --desired-value {need} "
                f"--region {stack.region}"
            )


def _rights(stack: Stack, parameters: Parameters) -> Iterator[str]:
    """Whether the caller may do what is needed, by simulation, which leaves out policies of resources."""
    caller = stack.client("sts").get_caller_identity()["Arn"]
    if caller.endswith(":root"):
        return
    iam = stack.client("iam")
    assumed = _ASSUMED_ROLE.fullmatch(caller)
    source = iam.get_role(RoleName=assumed["role"])["Role"]["Arn"] if assumed else caller
    kinds = _kinds(stack, parameters)
    called = [action for text in PERMISSIONS.values() for action in _ACTION.findall(text)]
    made = [action for kind in kinds & CREATION.keys() for action in _ACTION.findall(CREATION[kind])]
    actions = sorted({*made, *(action for action in called if not action.startswith(_OF_OTHERS[stack.part]))})
    pages = iam.get_paginator("simulate_principal_policy").paginate(PolicySourceArn=source, ActionNames=actions)
    found: dict[str, list[str]] = {"explicitDeny": [], "implicitDeny": [], "allowed": []}
    for page in pages:
        for result in page["EvaluationResults"]:
            found[result["EvalDecision"]].append(result["EvalActionName"])
    if unsure := found["implicitDeny"]:
        # The simulation asks for any resource, which a policy that names the resources of this stack does not allow.
        _logger.warning("%s is allowed %s on no resource, or on some only", source, ", ".join(unsure))
    if denied := found["explicitDeny"]:
        kind = "role" if assumed else "user"
        yield (
            f"a policy or a boundary of {source} denies {', '.join(denied)}: aws iam list-attached-{kind}-policies "
            f"--{kind}-name {source.rpartition('/')[2]} and list-{kind}-policies show its policies"
        )


def _instance_types(stack: Stack, parameters: Parameters) -> Iterator[str]:
    """Whether the region has the instance types."""
    wanted = parameters["InstanceTypes"].split(",")
    pages = stack.client("ec2").get_paginator("describe_instance_type_offerings")
    offered = {
        one["InstanceType"]
        for page in pages.paginate(Filters=[{"Name": "instance-type", "Values": wanted}])
        for one in page["InstanceTypeOfferings"]
    }
    if missing := [one for one in wanted if one not in offered]:
        yield f"{stack.region} has no {', '.join(missing)}: --set InstanceTypes takes three others"


def _spot_role(stack: Stack, _parameters: Parameters) -> Iterator[str]:
    """Whether the account has ever used spot."""
    if not _is_there(lambda: stack.client("iam").get_role(RoleName="AWSServiceRoleForEC2Spot")):
        yield (
            "the account never used spot: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com "
            "makes the role for it"
        )


def _is_there(asked: Callable[[], Any]) -> bool:
    try:
        asked()
    except ClientError as error:
        if code_of(error) in _ABSENT:
            return False
        raise
    return True
