"""An AWS without the machines, for tests of the application on EMR: moto's server, and what it lacks."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from cfnlint.decode import decode

from conf.emr import stack as stacks
from conf.emr.__main__ import main
from conf.emr.application import SETTINGS
from conf.emr.serverless import Application
from conf.emr.stack import Part, Stack

REGION = "us-east-1"  # moto's server takes every call to EMR for one to this region
LOCAL = SETTINGS.with_name("local.yaml")
PARTS: tuple[Part, ...] = get_args(Part)
BUILT = ("application.zip", "dependencies.zip")


def write_templates(folder: Path) -> None:
    """The templates without what moto's CloudFormation fails on; buckets, queues, roles and the cluster stay."""
    for part in PARTS:
        decoded, _ = decode(str(stacks.TEMPLATES / f"{part}.yaml"))
        template = json.loads(json.dumps(decoded))
        for parameter in template["Parameters"].values():
            if parameter["Type"] == "CommaDelimitedList":
                parameter["Type"] = "String"  # it cannot keep a list when the stack is changed
        resources = template["Resources"]
        if part == "data":
            del resources["Key"]["Properties"]["Tags"]  # it takes another form of tags for a key
        for name in [name for name, one in resources.items() if one["Type"].startswith("AWS::EC2::")]:
            del resources[name]  # it cannot delete a network in the order of its dependencies
        if part == "cluster":
            del resources["Cluster"]["Metadata"], resources["Cluster"]["DependsOn"]  # they name the network
            group = {"InstanceCount": 1, "InstanceType": "m6g.xlarge", "Market": "ON_DEMAND"}  # it knows no fleets
            resources["Cluster"]["Properties"]["Instances"] = {
                # It reads this name, and without it ends a cluster at once.
                "keep_job_flow_alive_when_no_steps": True,
                "MasterInstanceGroup": group,
                "CoreInstanceGroup": group,
            }
        (folder / f"{part}.yaml").write_text(json.dumps(template))


def forget_everything(moto_address: str) -> None:
    """Make moto an empty account again: its CloudFormation leaves log groups behind."""
    urllib.request.urlopen(f"{moto_address}/moto-api/reset", data=b"", timeout=10).close()


def with_application(stack: Stack, templates: Path, to: Path) -> None:
    """Moto's CloudFormation makes no application of EMR Serverless, so one is made for it beforehand."""
    made = stack.client("emr-serverless").create_application(releaseLabel="emr-7.12.0", type="SPARK")
    role = "arn:aws:iam::123456789012:role/pictures"  # without a job it says that there is no application
    stack.client("emr-serverless").start_job_run(
        applicationId=made["applicationId"], executionRoleArn=role, name="first"
    )
    to.mkdir()
    for part in PARTS:
        template = json.loads((templates / f"{part}.yaml").read_text())
        if part == "serverless":
            template["Resources"] = {"JobRole": template["Resources"]["JobRole"]}
            template["Outputs"]["ApplicationId"]["Value"] = made["applicationId"]
        (to / f"{part}.yaml").write_text(json.dumps(template))


ABOUT = f"--stack pictures --region {REGION} --allow-non-eu"
"""The words of each command that say which stacks are meant, also of those that the program suggests."""


def run(*words: str) -> int:
    verb, *rest = words
    return main([verb, *ABOUT.split(), *rest])


def as_if(monkeypatch: pytest.MonkeyPatch, **statuses: str) -> None:
    """Have CloudFormation say of these stacks, by part, that they are in such a state, until they are deleted.

    None of those of a first try that failed has outputs, nor one that is being made.
    """
    describe, delete = Stack.describe, Stack.delete

    def described(stack: Stack) -> Mapping[str, Any] | None:
        there = describe(stack)
        if there is None or stack.part not in statuses:
            return there
        status = statuses[stack.part]
        made = {} if status.startswith(("ROLLBACK", "CREATE_IN")) else {"Outputs": there["Outputs"]}
        return {**{key: value for key, value in there.items() if key != "Outputs"}, **made, "StackStatus": status}

    def deleted(stack: Stack) -> None:
        statuses.pop(stack.part, None)
        delete(stack)

    monkeypatch.setattr(Stack, "describe", described)
    monkeypatch.setattr(Stack, "delete", deleted)


def steps(stack: Stack) -> list[dict[str, Any]]:
    found = stack.client("emr").list_steps(ClusterId=stack.sibling("cluster").outputs()["ClusterId"])["Steps"]
    return [*found]


def application_of(stack: Stack) -> Application:
    return Application(stack, stack.sibling("serverless").outputs()["ApplicationId"])


def jobs(stack: Stack) -> list[dict[str, Any]]:
    application = application_of(stack)
    listed = stack.client("emr-serverless").list_job_runs(applicationId=application.id)["jobRuns"]
    return [application.run(one["id"]) for one in listed if one["name"] != "first"]


def tell(stack: Stack, **metrics: float) -> None:
    """As CloudWatch does with a line of the stream's log."""
    output = [{"Name": "output", "Value": stack.outputs()["Output"]}]
    data = [{"MetricName": name, "Value": value, "Dimensions": output} for name, value in metrics.items()]
    stack.client("cloudwatch").put_metric_data(Namespace="picture-features", MetricData=data)


def print_line(stack: Stack, stream: str, line: str) -> None:
    """As a driver's output comes to CloudWatch."""
    group, logs = stack.outputs()["LogGroupName"], stack.client("logs")
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    event = {"timestamp": int(time.time() * 1000), "message": line}
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])
