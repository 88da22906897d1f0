"""A stack of CloudFormation: made, changed, read, taken down; and the names of what is in it.

There are three: data, which lives for years, and serverless and cluster, which run the programs and are replaced at
will. The name that people give is that of all of them.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from botocore.exceptions import ClientError

from conf import answers
from conf.aws.connection import S3Connection
from conf.emr.permissions import missing_permission
from conf.errors import AppError, NotFoundError, RefusedError, SettingsError
from conf.failures import code_of

_logger = logging.getLogger(__name__)

Part = Literal["data", "serverless", "cluster"]
Compute = Literal["serverless", "cluster"]

TEMPLATES = Path(__file__).parent
DEFAULT_REGION = "eu-west-3"
EU_REGIONS = frozenset(("eu-central-1", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-3"))
"""Of the European Union. London (eu-west-2) and Zurich (eu-central-2) are not; eusc-de-east-1 is, and is another
partition of AWS, with accounts of its own."""
PURPOSES = ("input", "models", "output", "logs")
"""The purposes of the buckets."""
_POLL_SECONDS = 5.0
_NAME = re.compile(r"[a-z][a-z0-9-]{1,24}[a-z0-9]")  # the longest bucket's name is this and 36 more, of 63
_FAILED = re.compile(r"_FAILED$|ROLLBACK_COMPLETE$")
_CHANGING = tuple(
    f"{what}_IN_PROGRESS"
    for what in (
        *("CREATE", "DELETE", "ROLLBACK", "UPDATE", "UPDATE_COMPLETE_CLEANUP"),
        *("UPDATE_ROLLBACK", "UPDATE_ROLLBACK_COMPLETE_CLEANUP"),
    )
)
OURS = re.compile("Name|KeyArn|Platform|AllowNonEu|QueueIsTaken|Generation|.+Job|.+Arguments")
"""The parameters that deploy sets itself."""
_FIRST_TRY_FAILED = "ROLLBACK_COMPLETE"
_LEFT_OVER = (_FIRST_TRY_FAILED, "ROLLBACK_FAILED", "DELETE_FAILED")
"""Of a first try, or of a deletion that failed: nothing can run on it."""
_HALF_CHANGED = "UPDATE_ROLLBACK_FAILED"
_UNEXECUTED = "REVIEW_IN_PROGRESS"
_GOES = "DELETE_IN_PROGRESS"


class _Template(yaml.SafeLoader):
    """Reads a template as data, without what its functions would give."""


_Template.add_multi_constructor("!", lambda *_: None)


def template_of(part: Part) -> dict[str, Any]:
    """The template of a stack, as data: parameters with their defaults, resources with their types."""
    return dict(yaml.load(_file(part).read_text(encoding="utf-8"), _Template))  # noqa: S506 - it is a safe loader


def _file(part: Part) -> Path:
    return TEMPLATES / f"{part}.yaml"


def check_region(region: str, *, allow_non_eu: bool) -> None:
    """Refuse a region outside the European Union.

    Raises:
        SettingsError: it is, and that was not allowed.
    """
    if region not in EU_REGIONS and not allow_non_eu:
        raise SettingsError(
            f"--region: {region!r} is not in the European Union; choose one of {', '.join(sorted(EU_REGIONS))}, or "
            "give --allow-non-eu if the pictures may leave it"
        )


def check_name(name: str) -> None:
    """Refuse a name that buckets cannot have.

    Raises:
        SettingsError: saying what is allowed.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"--stack: {name!r} is not allowed: 3 to 26 lower-case letters, digits and hyphens, a letter first, "
            "because the buckets are named after it"
        )


@dataclass(frozen=True)
class Stack:
    """One of the three stacks of a name, whether it is there or not.

    Attributes:
        name: as the user says.
        part: which of the three.
        region: where it is.
        connection: how AWS is reached.
    """

    name: str
    part: Part
    region: str
    connection: S3Connection

    @classmethod
    def of(cls, name: str, region: str, connection: S3Connection) -> Stack:
        """The data stack in a region.

        Raises:
            SettingsError: a name that buckets cannot have.
        """
        check_name(name)
        return cls(name, "data", region, replace(connection, region=region))

    def sibling(self, part: Part) -> Stack:
        """Another stack of the same name."""
        return replace(self, part=part)

    @property
    def full_name(self) -> str:
        """As CloudFormation has it."""
        return f"{self.name}-{self.part}"

    def command(self, verb: str, *words: str) -> str:
        """A command of this program to type, for the stacks of this name in this region and no others."""
        outside = () if self.region in EU_REGIONS else ("--allow-non-eu",)
        return answers.command("conf.emr", verb, "--stack", self.name, "--region", self.region, *outside, *words)

    @property
    def deploy_command(self) -> str:
        """The command that makes this stack."""
        return self.command("deploy", *(("--compute", "cluster") if self.part == "cluster" else ()))

    def client(self, service: str) -> Any:
        """The boto3 client of a service in the stack's region."""
        return self.connection.client(service)

    def describe(self) -> Mapping[str, Any] | None:
        """The description by CloudFormation; None if there is no such stack."""
        try:
            return dict(self.client("cloudformation").describe_stacks(StackName=self.full_name)["Stacks"][0])
        except ClientError as error:
            if code_of(error) == "ValidationError" and "does not exist" in str(error):
                return None
            raise

    def outputs(self) -> dict[str, str]:
        """The outputs of the template, by name.

        Raises:
            NotFoundError: there is no such stack, or it is not made: none that is made is without outputs.
        """
        there = self.describe()
        if there is None:
            raise NotFoundError(
                f"there is no stack {self.full_name!r} in {self.region}; {self.deploy_command} makes it, --region and "
                "--stack name another"
            )
        outputs = outputs_of(there)
        if not outputs:
            raise NotFoundError(self.unusable(there))
        return outputs

    def unusable(self, there: Mapping[str, Any]) -> str:
        """What to do about a stack that is described as one on which nothing can run."""
        status, deploy = there["StackStatus"], f"{self.deploy_command} makes it again"
        aws = f"--stack-name {self.full_name} --region {self.region}"
        destroy = self.command("destroy", *(("--data",) if self.part == "data" else ("--compute", self.part)))
        if status == _UNEXECUTED:
            remedy = f"it is a change set that nobody has executed: aws cloudformation delete-stack {aws} deletes it"
        elif status.endswith("_IN_PROGRESS"):
            remedy = "wait until that is done"
        elif status == _FIRST_TRY_FAILED:
            remedy = deploy
        elif status == _HALF_CHANGED:
            remedy = f"aws cloudformation continue-update-rollback {aws} goes on with it, or {destroy} deletes it"
        else:
            remedy = f"{destroy} deletes it, and {deploy}"
        return f"stack {self.full_name} is {status}; {remedy}"

    def wait_until_stable(self) -> None:
        """Wait until nobody changes it: what an interrupted deploy has begun, CloudFormation goes on with."""
        while (there := self.describe()) and there["StackStatus"] in _CHANGING:
            _logger.info("%s is %s; waiting", self.full_name, there["StackStatus"])
            time.sleep(_POLL_SECONDS)

    def takes_changes(self) -> bool:
        """Whether it can be changed. What is left of a first try, or of a deletion that failed, can only be deleted."""
        there = self.describe()
        return there is None or there["StackStatus"] not in (*_LEFT_OVER, _HALF_CHANGED, _UNEXECUTED)

    def check_can_be_made(self) -> None:
        """Refuse what `apply` could only fail on.

        Raises:
            NotFoundError: saying what to do about it.
        """
        there = self.describe()
        if there and there["StackStatus"] != _FIRST_TRY_FAILED and not self.takes_changes():
            raise NotFoundError(self.unusable(there))

    def buckets(self) -> dict[str, str]:
        """The names that the template gives to its buckets, by purpose."""
        account = self.client("sts").get_caller_identity()["Account"]
        return {purpose: f"{self.name}-{purpose}-{account}-{self.region}" for purpose in PURPOSES}

    def apply(self, parameters: Mapping[str, str]) -> bool:
        """Make the stack, or change it, and wait. Parameters that are not given keep their value.

        So do those of a first try that failed, of which nothing else stays.

        Returns:
            Whether there was anything to do.

        Raises:
            AppError: CloudFormation failed, with the first reason that it gave; or it left something behind.
        """
        there = self.describe()
        known = template_of(self.part)["Parameters"]
        former = {key: value for key, value in parameters_of(there or {}).items() if key in known}
        if there and there["StackStatus"] == _FIRST_TRY_FAILED:
            self.delete()
            there = None
        request = self._request({**former, **parameters}) | self._template()
        if there is not None:
            return self._update(request)
        began = datetime.now(UTC)
        self.client("cloudformation").create_stack(**request)
        self._wait(began)
        return True

    def change(self, parameters: Mapping[str, str]) -> bool:
        """Change parameters of the stack as it is, with the template that it was made with; otherwise as `apply`."""
        former = parameters_of(self.describe() or {})
        return self._update(self._request({**former, **parameters}) | {"UsePreviousTemplate": True})

    def _request(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        return {
            "StackName": self.full_name,
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            "Capabilities": ["CAPABILITY_IAM"],
            "Tags": [{"Key": "application", "Value": "picture-features"}, {"Key": "stack", "Value": self.name}],
        }

    def _update(self, request: Mapping[str, Any]) -> bool:
        began = datetime.now(UTC)
        try:
            self.client("cloudformation").update_stack(**request)
        except ClientError as error:
            if "No updates are to be performed" in str(error):
                return False
            raise
        self._wait(began)
        return True

    def _template(self) -> dict[str, str]:
        """The template in a bucket, where it may have a megabyte; that of the buckets itself as it is, of 50 kB."""
        body = _file(self.part).read_bytes()
        if self.part == "data":
            return {"TemplateBody": body.decode()}
        bucket, key = self.buckets()["models"], f"templates/{self.part}-{hashlib.sha256(body).hexdigest()[:12]}.yaml"
        self.client("s3").put_object(Bucket=bucket, Key=key, Body=body)
        return {"TemplateURL": f"https://{bucket}.s3.{self.region}.amazonaws.com/{key}"}

    def delete(self) -> None:
        """Delete the stack, whose buckets are empty, and wait.

        Raises:
            AppError: CloudFormation failed; the first reason that it gave.
        """
        began = datetime.now(UTC)
        self.client("cloudformation").delete_stack(StackName=self.full_name)
        self._wait(began)

    def _wait(self, began: datetime) -> None:
        told: set[str] = set()
        while True:
            there = self.describe()
            self._tell(began, told)
            if there is None or there["StackStatus"] == "DELETE_COMPLETE":
                return
            status = there["StackStatus"]
            if not status.endswith("_IN_PROGRESS"):
                if _FAILED.search(status):
                    raise self._failure(began, status)
                self._check_nothing_left(began)
                return
            time.sleep(_POLL_SECONDS)

    def _tell(self, began: datetime, told: set[str]) -> None:
        for event in reversed(self._events(began)):
            if event["EventId"] not in told:
                told.add(event["EventId"])
                _logger.info("%s %s", event["LogicalResourceId"], event["ResourceStatus"])

    def _events(self, began: datetime) -> list[dict[str, Any]]:
        """The events since then, newest first; none if the stack is gone."""
        found: list[dict[str, Any]] = []
        try:
            for page in (
                self.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=self.full_name)
            ):
                new = [event for event in page["StackEvents"] if event["Timestamp"] >= began]
                found += new
                if len(new) < len(page["StackEvents"]):
                    break
        except ClientError as error:
            if code_of(error) != "ValidationError":
                raise
        return found

    def _failure(self, began: datetime, status: str) -> AppError:
        for event in reversed(self._events(began)):
            if event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in _reason(event):
                if permission := missing_permission(_reason(event)):
                    return RefusedError(f"{event['LogicalResourceId']}: access denied; grant {permission}")
                return AppError(f"{self.full_name} is {status}: {event['LogicalResourceId']}: {_reason(event)}")
        return AppError(f"{self.full_name} is {status}; see its events in CloudFormation")

    def _check_nothing_left(self, began: datetime) -> None:
        """Refuse a success that left something behind: CloudFormation tries to delete it, gives up, and forgets it."""
        last = {event.get("PhysicalResourceId"): event for event in reversed(self._events(began))}
        for resource, event in last.items():
            if event["ResourceStatus"] == "DELETE_FAILED":
                raise AppError(
                    f"{self.full_name} is changed, but {event['LogicalResourceId']} could not be deleted and may go on "
                    f"costing; delete {resource} in the console: {_reason(event)}"
                )


def _reason(event: Mapping[str, Any]) -> str:
    return " ".join(event.get("ResourceStatusReason", "").split())


def parameters_of(description: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that a stack was made with."""
    return {entry["ParameterKey"]: entry["ParameterValue"] for entry in description.get("Parameters", ())}


def outputs_of(description: Mapping[str, Any]) -> dict[str, str]:
    """The outputs of a stack; none while it is being made, and if that failed."""
    return {output["OutputKey"]: output["OutputValue"] for output in description.get("Outputs", ())}


def is_going(description: Mapping[str, Any]) -> bool:
    """Whether a stack is being deleted, and leaves nothing to the next one."""
    return bool(description["StackStatus"] == _GOES)


def is_usable(description: Mapping[str, Any]) -> bool:
    """Whether programs can run on a stack: it is made, and not on its way out."""
    status = description["StackStatus"]
    return bool(outputs_of(description)) and status not in (*_LEFT_OVER, _GOES)


def is_left_over(description: Mapping[str, Any]) -> bool:
    """Whether it is what a first try, or a deletion that failed, has left."""
    return description["StackStatus"] in _LEFT_OVER


def cluster_is_there(data: Stack) -> bool:
    """Whether there is a cluster, whose stream takes from the queue, whatever Serverless does."""
    there = data.sibling("cluster").describe()
    return there is not None and not is_going(there) and not is_left_over(there)


def yes_or_no(*, given: bool) -> str:
    """A condition as the templates take it."""
    return "yes" if given else "no"
