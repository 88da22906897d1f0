"""What AWS refuses, and what a change or a deletion leaves behind: told, or deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from conf.emr import buckets
from conf.emr.application import SETTINGS, EmrSettings, upload
from conf.emr.permissions import explain
from conf.emr.stack import Stack
from conf.errors import AppError, RefusedError
from tests.support.aws_account import (
    run,
)


def denied(operation: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": "AccessDenied", "Message": message}}, operation)


def test_a_refusal_names_the_permission() -> None:
    said = "User: arn:aws:iam::1:user/me is not authorized to perform: cloudformation:CreateStack on resource: arn:x"
    assert str(explain(denied("CreateStack", said))).endswith("grant cloudformation:CreateStack on arn:x")
    assert str(explain(denied("HeadObject", "Forbidden"))) == "HeadObject: access denied; grant s3:GetObject"


def test_a_refused_upload_names_the_permission(deployed: Stack, tmp_path: Path) -> None:
    s3, settings = deployed.client("s3"), EmrSettings.choose(deployed, SETTINGS, [])
    with Stubber(s3) as stub:
        stub.add_client_error("put_object", "AccessDenied", "Access Denied", 403)
        with pytest.raises(S3UploadFailedError) as caught:
            upload(deployed, tmp_path / "build" / "emr" / "aarch64", settings, "s3://there/application")
    assert str(explain(caught.value)) == "PutObject: access denied; grant s3:PutObject"


def test_a_refusal_within_cloudformation_names_the_permission(aws: Stack) -> None:
    said = "User: arn:aws:iam::1:user/me is not authorized to perform: iam:CreateRole on resource: arn:role because no"
    now = datetime.now(UTC)
    event = {"StackId": "s", "StackName": "pictures-data", "Timestamp": now}
    failed = {**event, "EventId": "1", "LogicalResourceId": "NodeRole", "ResourceStatus": "CREATE_FAILED"}
    described = {"StackName": "pictures-data", "CreationTime": now, "StackStatus": "ROLLBACK_COMPLETE"}
    with Stubber(aws.client("cloudformation")) as stub:
        events = {"StackEvents": [{**failed, "ResourceStatusReason": said}]}
        stub.add_response("describe_stacks", {"Stacks": [described]})
        stub.add_response("describe_stack_events", events)
        stub.add_response("describe_stack_events", events)
        with pytest.raises(RefusedError, match="NodeRole: access denied; grant iam:CreateRole on arn:role"):
            aws._wait(now)


def happened(*events: tuple[str, str, str]) -> dict[str, Any]:
    """What CloudFormation says of a stack's events: resource, status, reason; given in their order."""
    now = datetime.now(UTC)
    told = [
        {
            "StackId": "s", "StackName": "pictures-data", "EventId": str(number), "Timestamp": now,
            "LogicalResourceId": name, "PhysicalResourceId": f"{name}-1", "ResourceStatus": status,
            "ResourceStatusReason": reason,
        }
        for number, (name, status, reason) in enumerate(events)
    ]  # fmt: skip
    return {"StackEvents": told[::-1]}


def wait_after(stack: Stack, *events: tuple[str, str, str]) -> None:
    """Wait for a change that is complete, after these events."""
    now = datetime.now(UTC)
    described = {"StackName": "pictures-data", "CreationTime": now, "StackStatus": "UPDATE_COMPLETE"}
    with Stubber(stack.client("cloudformation")) as stub:
        stub.add_response("describe_stacks", {"Stacks": [described]})
        for _ in ("to tell", "to judge"):
            stub.add_response("describe_stack_events", happened(*events))
        stack._wait(now)


def test_a_change_that_leaves_something_behind_is_no_success(aws: Stack) -> None:
    """It may cost for ever, and no later change would delete it. What is deleted at the second try is well."""
    in_use = ("DELETE_FAILED", "resource sg-1 has a\ndependent object")
    events = [("Vpc", *in_use), ("NodesGroup", *in_use), ("Vpc", "DELETE_COMPLETE", "")]
    with pytest.raises(AppError, match="delete NodesGroup-1 in the console: resource sg-1 has a dependent object"):
        wait_after(aws, *events)
    wait_after(aws, *events, ("NodesGroup", "DELETE_COMPLETE", ""))


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"])
def test_what_can_only_be_deleted_is_deleted(aws: Stack, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    """What is left of a first try, or of a deletion that failed."""
    assert run("deploy", "--yes") == 0
    describe = Stack.describe

    def described(stack: Stack) -> Mapping[str, Any] | None:
        there = describe(stack)
        return {**there, "StackStatus": status} if there else None

    monkeypatch.setattr(Stack, "describe", described)
    assert not aws.takes_changes()
    assert run("destroy", "--data", "--yes") == 0
    assert aws.describe() is None


def test_an_object_that_stays_is_told_with_the_permission(aws: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    s3, bucket = aws.client("s3"), aws.buckets()["input"]
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="pictures/a.jpg", Body=b"")
    refused = {"Errors": [{"Key": "pictures/a.jpg", "VersionId": "1", "Code": "AccessDenied", "Message": "no"}]}
    monkeypatch.setattr(s3, "delete_objects", lambda **_: refused)
    needed = r"a\.jpg cannot be deleted \(AccessDenied\); s3:DeleteObject and s3:DeleteObjectVersion are needed"
    with pytest.raises(RefusedError, match=needed):
        buckets.empty(aws)


def test_buckets_of_many_pages_are_emptied_in_parallel(
    aws: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a person sees how far it is."""
    bucket = aws.buckets()["input"]
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=bucket)
    for number in range(120):
        s3.put_object(Bucket=bucket, Key=f"pictures/{number}.jpg", Body=b"")
    [page] = s3.get_paginator("list_object_versions").paginate(Bucket=bucket)  # all of them

    def paginate(Bucket: str) -> Iterator[dict[str, Any]]:  # noqa: N803 - as boto3 has it
        for first in range(0, 120, 7) if Bucket == bucket else ():
            yield {"Versions": page["Versions"][first : first + 7]}

    monkeypatch.setattr(s3, "get_paginator", lambda _: SimpleNamespace(paginate=paginate))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert buckets.empty(aws) == 120
    assert "deleted 120 objects" in capsys.readouterr().err


def test_what_is_in_a_bucket_is_counted_by_s3(aws: Stack) -> None:
    bucket = aws.buckets()["output"]
    aws.client("cloudwatch").put_metric_data(
        Namespace="AWS/S3",
        MetricData=[{
            "MetricName": "BucketSizeBytes", "Value": 5e9, "Timestamp": datetime.now(UTC) - timedelta(days=1),
            "Dimensions": [
                {"Name": "BucketName", "Value": bucket}, {"Name": "StorageType", "Value": "StandardStorage"},
            ],
        }],
    )  # fmt: skip
    assert buckets.sizes(aws) == {bucket: 5e9}
