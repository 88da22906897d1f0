"""The application on EMR from the command line: against moto's server, which is an AWS without the machines."""

from __future__ import annotations

import gzip
import io
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from cfnlint.decode import decode

from conf.aws.connection import AWS_DEFAULTS, forget_clients
from conf.emr import stack as stacks
from conf.emr.__main__ import main
from conf.emr.application import SETTINGS, locations_of, planned_locations, upload
from conf.emr.permissions import explain
from conf.emr.stack import Stack
from conf.errors import AppError, RefusedError
from tests.support.servers import CREDENTIALS

REGION = "us-east-1"  # moto's server takes every call to EMR for one to this region
LOCAL = SETTINGS.with_name("local.yaml")


@pytest.fixture(scope="module")
def template_for_moto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template without what moto's CloudFormation fails on; AWS::EMR::Cluster and the rest stay."""
    decoded, _ = decode(str(stacks.TEMPLATE))
    template = json.loads(json.dumps(decoded))
    resources = template["Resources"]
    del resources["Key"]["Properties"]["Tags"]  # it takes another form of tags for a key
    for name in [name for name, one in resources.items() if one["Type"].startswith("AWS::EC2::")]:
        del resources[name]  # it cannot delete a network in the order of its dependencies
    del resources["Cluster"]["Metadata"], resources["Cluster"]["DependsOn"]  # they name the network
    resources["Cluster"]["Properties"]["Instances"] = {
        # It reads this name, and without it ends a cluster at once.
        "keep_job_flow_alive_when_no_steps": True,
        **{key: value for key, value in resources["Cluster"]["Properties"]["Instances"].items() if key.endswith("Group")
           and not key.startswith(("Emr", "Service"))},
    }  # fmt: skip
    file = tmp_path_factory.mktemp("template") / "template.json"
    file.write_text(json.dumps(template))
    return file


def forget_everything(moto_address: str) -> None:
    """Make moto an empty account again: its CloudFormation leaves log groups behind."""
    urllib.request.urlopen(f"{moto_address}/moto-api/reset", data=b"", timeout=10).close()


@pytest.fixture
def aws(moto_address: str, template_for_moto: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """An empty account, and a folder with a package."""
    for key, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": moto_address}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("AWS_REGION")  # the default region is the program's
    monkeypatch.setattr(stacks, "TEMPLATE", template_for_moto)
    monkeypatch.setattr(stacks, "_POLL_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SETTINGS.parents[1]))  # stop starts a program of this checkout
    built = tmp_path / "build" / "emr" / "x86_64"
    built.mkdir(parents=True)
    for name in ("application.zip", "dependencies.zip"):
        (built / name).write_text(name)
    forget_everything(moto_address)
    forget_clients()
    yield Stack.of("pictures", REGION, AWS_DEFAULTS)
    forget_clients()


def run(*words: str) -> int:
    verb, *rest = words
    return main([verb, "--stack", "pictures", "--region", REGION, "--allow-non-eu", *rest])


@pytest.fixture
def deployed(aws: Stack, capsys: pytest.CaptureFixture[str]) -> Iterator[Stack]:
    assert run("deploy", "--yes") == 0, capsys.readouterr().err
    capsys.readouterr()
    yield aws
    assert run("destroy", "--data", "--yes") == 0, capsys.readouterr().err


def steps(stack: Stack) -> list[dict[str, Any]]:
    found = stack.client("emr").list_steps(ClusterId=stack.outputs()["ClusterId"])["Steps"]
    return [*found]


def tell(stack: Stack, **metrics: float) -> None:
    """As CloudWatch does with a line of the stream's log."""
    output = [{"Name": "output", "Value": stack.outputs()["Output"]}]
    data = [{"MetricName": name, "Value": value, "Dimensions": output} for name, value in metrics.items()]
    stack.client("cloudwatch").put_metric_data(Namespace="picture-features", MetricData=data)


def test_deploy_makes_what_a_step_needs_and_destroy_takes_it_away(
    aws: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("deploy", "--dry-run") == 0
    assert aws.describe() is None
    assert "nobody is told of alarms" in capsys.readouterr().err
    assert run("deploy", "--yes", "--set", "AlarmEmail=me@example.org") == 0
    captured = capsys.readouterr()
    assert "nobody is told" not in captured.err
    assert f"make stack pictures in {REGION}" in captured.err
    outputs = aws.outputs()
    assert outputs["Input"] in captured.out
    planned = planned_locations(aws, "x86_64")
    there = locations_of(aws, outputs)
    assert replace(there, queue=None) == planned
    assert there.region == REGION

    s3 = aws.client("s3")
    bucket = f"pictures-models-123456789012-{REGION}"
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert {entry["Key"] for entry in listed} == {
        f"application/x86_64/{name}"
        for name in ("application.zip", "dependencies.zip", "launch.py", "log4j2.properties", "emr.yaml")
    }
    queue = aws.client("sqs").get_queue_attributes(QueueUrl=outputs["QueueUrl"], AttributeNames=["All"])["Attributes"]
    assert int(queue["VisibilityTimeout"]) >= 60
    assert "pictures-dead-letters" in queue["RedrivePolicy"]

    pictures = f"pictures-input-123456789012-{REGION}"
    # moto does not take it from the template
    s3.put_bucket_versioning(Bucket=pictures, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=pictures, Key="pictures/a.jpg", Body=b"1")
    s3.put_object(Bucket=pictures, Key="pictures/a.jpg", Body=b"2")
    assert run("destroy", "--yes") == 0
    assert stacks.parameters_of(aws.describe() or {})["Compute"] == "no"
    assert s3.get_object(Bucket=pictures, Key="pictures/a.jpg")["Body"].read() == b"2"
    assert run("destroy", "--data", "--yes") == 0
    assert "pictures is gone, with 7 objects" in capsys.readouterr().out
    assert aws.describe() is None
    assert s3.list_buckets()["Buckets"] == []


def test_deploying_again_keeps_what_was_set_before(deployed: Stack) -> None:
    before = stacks.parameters_of(deployed.describe() or {})
    assert run("deploy", "--yes", "--set", "MonthlyBudget=50", "--set", "Schedules=no") == 0
    assert run("deploy", "--yes") == 0
    after = stacks.parameters_of(deployed.describe() or {})
    assert after == {**before, "MonthlyBudget": "50", "Schedules": "no"}
    refit = json.loads(after["RefitArguments"])
    assert refit[0] == "spark-submit"
    assert refit[-2:] == ["--promote", "if-not-worse"]
    assert refit[refit.index("--embeddings") + 1] == deployed.outputs()["Output"]
    assert "--weights" not in refit  # the model's backbone is in the registry already
    assert all(len(value) <= 4096 for value in after.values())  # the most that CloudFormation takes


def test_a_step_is_what_was_shown_and_a_dry_run_adds_none(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("submit", "run", "--dry-run") == 0
    assert steps(deployed) == []
    assert run("submit", "run", "--yes") == 0
    [step] = steps(deployed)
    words = step["Config"]["Args"]
    assert words[0] == "spark-submit"
    outputs = deployed.outputs()
    assert words[words.index("--queue") + 1] == outputs["QueueUrl"]
    assert words[words.index("--output") + 1] == outputs["Output"]
    assert step["ActionOnFailure"] == "CONTINUE"
    captured = capsys.readouterr()
    assert step["Id"] in captured.out
    assert "--deploy-mode cluster" in captured.err

    tasks = {"InstanceRole": "TASK", "InstanceCount": 2, "InstanceType": "m6i.xlarge", "Market": "SPOT"}
    deployed.client("emr").add_instance_groups(JobFlowId=outputs["ClusterId"], InstanceGroups=[tasks])
    tell(deployed, Pictures=1200, SecondsBehind=3.5)
    assert run("status") == 0
    status = capsys.readouterr().out
    assert f"cluster      {outputs['ClusterId']} RUNNING" in status
    assert "nodes        task 2 of 2 m6i.xlarge spot" in status
    assert f"step         {step['Id']} RUNNING picture-features run" in status
    assert "pictures in the last hour            1,200" in status
    assert "seconds behind, at most              3.5" in status


def test_the_program_gets_the_settings_that_were_submitted(
    deployed: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not those of the last deploy, of which spark-submit would know nothing."""
    settings = tmp_path / "mine.yaml"
    settings.write_text("stream: {interval: 45s}\nspark: {master: null, conf: {spark.executor.cores: '8'}}\n")
    uri = f"{deployed.outputs()['Application']}/emr.yaml"
    bucket, key = uri.removeprefix("s3://").split("/", 1)

    def there() -> str:
        return str(deployed.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode())

    assert run("submit", "run", "--dry-run", "--settings", str(settings)) == 0
    assert f"upload {settings} as {uri}\nrun on cluster" in capsys.readouterr().err
    assert there() == SETTINGS.read_text()
    assert run("submit", "run", "--yes", "--settings", str(settings)) == 0
    assert there() == settings.read_text()
    [step] = steps(deployed)
    assert "spark.executor.cores=8" in step["Config"]["Args"]


def test_a_fit_needs_the_converted_backbone(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("submit", "fit", "--yes") == 6
    assert "python -m batch_fit convert --to build/emr/x86_64/backbone.tflite" in capsys.readouterr().err
    Path("build/emr/x86_64/backbone.tflite").write_bytes(b"flat")
    uri = deployed.outputs()["Application"]
    assert "backbone.tflite" in upload(deployed, Path("build/emr/x86_64"), SETTINGS, uri)
    assert run("submit", "fit", "--yes", "--", "--limit", "100") == 0
    [step] = steps(deployed)
    words = step["Config"]["Args"]
    assert words[-4:] == ["--weights", "backbone.tflite", "--limit", "100"]
    assert "backbone.tflite" in words[words.index("--files") + 1]


def test_logs_come_from_cloudwatch_and_from_the_archive(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("logs") == 6
    assert "nothing was printed in the last 1:00:00" in capsys.readouterr().err
    outputs = deployed.outputs()
    logs = deployed.client("logs")
    logs.create_log_stream(logGroupName=outputs["LogGroupName"], logStreamName="driver")
    event = {"timestamp": int(time.time() * 1000), "message": '{"Pictures": 3}'}
    logs.put_log_events(logGroupName=outputs["LogGroupName"], logStreamName="driver", logEvents=[event])
    assert run("logs", "--since", "5min") == 0
    assert capsys.readouterr().out == '{"Pictures": 3}\n'

    assert run("logs", "--since", "soon") == 2
    assert "--since: 'soon' is not allowed: a duration is a number with a unit" in capsys.readouterr().err
    assert run("logs", "--step", "s-1") == 3
    assert "up to five minutes later" in capsys.readouterr().err
    key = f"emr/{outputs['ClusterId']}/steps/s-1/stderr.gz"
    deployed.client("s3").put_object(
        Bucket=f"pictures-logs-123456789012-{REGION}", Key=key, Body=gzip.compress(b"final status: SUCCEEDED\n")
    )
    assert run("logs", "--step", "s-1") == 0
    assert capsys.readouterr().out == "final status: SUCCEEDED\n"


def test_stop_asks_the_stream_and_a_serverless_job_streams(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stop", "--yes") == 0
    output = deployed.outputs()["Output"]
    assert capsys.readouterr().out == f"no stream runs on {output}\n"

    serverless = deployed.client("emr-serverless")
    application = serverless.create_application(releaseLabel="emr-7.12.0", type="SPARK")["applicationId"]
    assert run("submit", "run", "--serverless", application, "--yes") == 0
    job = capsys.readouterr().out.strip()
    started = serverless.get_job_run(applicationId=application, jobRunId=job)["jobRun"]
    submitted = started["jobDriver"]["sparkSubmit"]
    assert submitted["entryPointArguments"][:2] == ["streaming", "run"]
    assert "spark.yarn" not in submitted["sparkSubmitParameters"]

    tell(deployed, Pictures=12)
    assert run("status", "--serverless", application, "--job", job) == 0
    status = capsys.readouterr().out
    assert status.startswith(f"job          {job} {started['state']} picture-features run")
    assert "pictures in the last hour            12" in status
    assert "cluster" not in status


def test_without_a_cluster_status_tells_of_the_stream(aws: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("deploy", "--yes", "--set", "Compute=no") == 0
    tell(aws, Pictures=12)
    capsys.readouterr()
    assert run("status") == 0
    none, pictures = capsys.readouterr().out.splitlines()
    assert none == "cluster      none; python -m conf.emr deploy makes one"
    assert pictures == "pictures in the last hour            12"


def test_a_region_outside_the_union_has_to_be_allowed(aws: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    for region in ("us-east-1", "eu-west-2"):
        assert main(["deploy", "--dry-run", "--region", region]) == 2
        assert f"'{region}' is not in the European Union; choose one of eu-central-1" in capsys.readouterr().err
    assert main(["deploy", "--dry-run", "--region", "eu-west-2", "--allow-non-eu"]) == 0
    assert main(["deploy", "--dry-run"]) == 0
    assert "make stack picture-features in eu-west-3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["deploy"], "nobody is there to be asked; give --yes"),
        (
            ["deploy", "--yes", "--platform", "aarch64"],
            "build/emr/aarch64/application.zip is missing; python -m conf.emr",
        ),
        (
            ["deploy", "--yes", "--settings", str(LOCAL)],
            "spark.master is 'local[*,4]', and would keep Spark on one node",
        ),
        (["deploy", "--yes", "--set", "Budget"], "--set: 'Budget' is not allowed: give NAME=VALUE"),
        (["submit", "run", "--yes"], "there is no stack 'pictures' in us-east-1; python -m conf.emr deploy makes it"),
        (["status"], "there is no stack 'pictures'"),
        (["logs", "--since", "soon"], "there is no stack 'pictures'"),
        (["destroy", "--yes"], "there is no stack 'pictures'"),
        (["status", "--job", "1"], "--serverless APPLICATION_ID and --job ID belong together"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    aws: Stack, capsys: pytest.CaptureFixture[str], words: Sequence[str], said: str
) -> None:
    assert run(*words) > 0
    *_, last = capsys.readouterr().err.splitlines()
    assert said in last


@pytest.mark.parametrize(("answer", "made"), [("y", True), ("Yes", True), ("n", False), ("", False), ("yeah", False)])
def test_nothing_is_done_before_a_person_has_agreed(
    aws: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, *, made: bool
) -> None:
    """A plain return is no."""
    asked = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(asked, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", asked)
    applied: list[Mapping[str, str]] = []
    monkeypatch.setattr(Stack, "apply", lambda _, parameters: applied.append(parameters))
    monkeypatch.setattr(Stack, "outputs", lambda _: {"Application": "s3://there/application"})
    monkeypatch.setattr("conf.emr.deployment.upload", lambda *_: None)
    assert run("deploy") == 0
    assert capsys.readouterr().err.endswith("Go on? [y/N] ")
    assert bool(applied) == made


def test_a_name_that_buckets_cannot_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--stack", "My_Stack"]) == 2
    assert "lower-case letters, digits and hyphens" in capsys.readouterr().err


def denied(operation: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": "AccessDenied", "Message": message}}, operation)


def test_a_refusal_names_the_permission() -> None:
    said = "User: arn:aws:iam::1:user/me is not authorized to perform: cloudformation:CreateStack on resource: arn:x"
    assert str(explain(denied("CreateStack", said))).endswith("grant cloudformation:CreateStack on arn:x")
    assert str(explain(denied("HeadObject", "Forbidden"))) == "HeadObject: access denied; grant s3:GetObject"


def test_a_refused_upload_names_the_permission(deployed: Stack, tmp_path: Path) -> None:
    s3 = deployed.client("s3")
    with Stubber(s3) as stub:
        stub.add_client_error("put_object", "AccessDenied", "Access Denied", 403)
        with pytest.raises(S3UploadFailedError) as caught:
            upload(deployed, tmp_path / "build" / "emr" / "x86_64", SETTINGS, "s3://there/application")
    assert str(explain(caught.value)) == "PutObject: access denied; grant s3:PutObject"


def test_a_refusal_within_cloudformation_names_the_permission(aws: Stack) -> None:
    said = "User: arn:aws:iam::1:user/me is not authorized to perform: iam:CreateRole on resource: arn:role because no"
    now = datetime.now(UTC)
    event = {"StackId": "s", "StackName": "pictures", "Timestamp": now}
    failed = {**event, "EventId": "1", "LogicalResourceId": "NodeRole", "ResourceStatus": "CREATE_FAILED"}
    described = {"StackName": "pictures", "CreationTime": now, "StackStatus": "ROLLBACK_COMPLETE"}
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
            "StackId": "s", "StackName": "pictures", "EventId": str(number), "Timestamp": now,
            "LogicalResourceId": name, "PhysicalResourceId": f"{name}-1", "ResourceStatus": status,
            "ResourceStatusReason": reason,
        }
        for number, (name, status, reason) in enumerate(events)
    ]  # fmt: skip
    return {"StackEvents": told[::-1]}


def wait_after(stack: Stack, *events: tuple[str, str, str]) -> None:
    """Wait for a change that is complete, after these events."""
    now = datetime.now(UTC)
    described = {"StackName": "pictures", "CreationTime": now, "StackStatus": "UPDATE_COMPLETE"}
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
def test_what_can_only_be_deleted_is_not_changed_first(
    aws: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """CloudFormation would refuse, or deploy would make the stack anew only to take it down."""
    assert run("deploy", "--yes") == 0
    describe = Stack.describe

    def described(stack: Stack) -> Mapping[str, Any] | None:
        there = describe(stack)
        return {**there, "StackStatus": status} if there else None

    monkeypatch.setattr(Stack, "describe", described)
    monkeypatch.setattr(Stack, "apply", lambda *_: pytest.fail("it was changed"))
    assert run("destroy", "--yes") == 2
    assert "give --data, which deletes all that is left of it" in capsys.readouterr().err
    assert run("destroy", "--data", "--yes") == 0
    assert aws.describe() is None


def test_an_object_that_stays_is_told_with_the_permission(aws: Stack) -> None:
    key = {"Key": "pictures/a.jpg", "VersionId": "1"}
    with Stubber(aws.client("s3")) as stub:
        stub.add_response("list_object_versions", {"Versions": [key]})
        stub.add_response("delete_objects", {"Errors": [{**key, "Code": "AccessDenied", "Message": "no"}]})
        needed = r"a\.jpg cannot be deleted \(AccessDenied\); s3:DeleteObject and s3:DeleteObjectVersion are needed"
        with pytest.raises(RefusedError, match=needed):
            aws.empty_buckets()
