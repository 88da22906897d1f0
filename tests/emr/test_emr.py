"""The application on EMR from the command line: against moto's server, which is an AWS without the machines."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from cfnlint.decode import decode

from conf.aws.connection import AWS_DEFAULTS, forget_clients
from conf.emr import buckets
from conf.emr import stack as stacks
from conf.emr.__main__ import main
from conf.emr.application import SETTINGS, locations_of, upload
from conf.emr.permissions import explain
from conf.emr.serverless import Application
from conf.emr.stack import Part, Stack
from conf.errors import AppError, RefusedError
from tests.support.servers import CREDENTIALS

REGION = "us-east-1"  # moto's server takes every call to EMR for one to this region
LOCAL = SETTINGS.with_name("local.yaml")
PARTS: tuple[Part, ...] = get_args(Part)
BUILT = ("application.zip", "dependencies.zip", "spark-hadoop-cloud.jar")


@pytest.fixture(scope="module")
def templates_for_moto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The templates without what moto's CloudFormation fails on; buckets, queues, roles and the cluster stay."""
    folder = tmp_path_factory.mktemp("templates")
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
    return folder


def forget_everything(moto_address: str) -> None:
    """Make moto an empty account again: its CloudFormation leaves log groups behind."""
    urllib.request.urlopen(f"{moto_address}/moto-api/reset", data=b"", timeout=10).close()


@pytest.fixture
def aws(
    moto_address: str, templates_for_moto: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    """An empty account, and a folder with a package."""
    for key, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": moto_address}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("AWS_REGION")  # the default region is the program's
    monkeypatch.setattr(stacks, "TEMPLATES", tmp_path / "templates")
    for pause in ("stack", "serverless", "cluster"):
        monkeypatch.setattr(f"conf.emr.{pause}._POLL_SECONDS", 0.01)
    monkeypatch.setattr("conf.emr.cluster.Cluster._fleets", lambda _: [])
    monkeypatch.setattr("conf.emr.deployment.check", lambda *_: [])  # see test_preflight.py: moto knows no such calls
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SETTINGS.parents[1]))  # stop starts a program of this checkout
    for platform in ("aarch64", "x86_64"):
        built = tmp_path / "build" / "emr" / platform
        built.mkdir(parents=True)
        for name in BUILT:
            (built / name).write_text(name)
    forget_everything(moto_address)
    forget_clients()
    stack = Stack.of("pictures", REGION, AWS_DEFAULTS)
    with_application(stack, templates_for_moto, tmp_path / "templates")
    yield stack
    forget_clients()


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


def run(*words: str) -> int:
    verb, *rest = words
    return main([verb, "--stack", "pictures", "--region", REGION, "--allow-non-eu", *rest])


@pytest.fixture
def deployed(aws: Stack, capsys: pytest.CaptureFixture[str]) -> Iterator[Stack]:
    """Both forms, for which there is one set of data."""
    for compute in ("serverless", "cluster"):
        assert run("deploy", "--yes", "--compute", compute) == 0, capsys.readouterr().err
    capsys.readouterr()
    yield aws
    assert run("destroy", "--data", "--yes") == 0, capsys.readouterr().err


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


def test_serverless_is_deployed_and_taken_down_and_the_data_stays(
    aws: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("deploy", "--dry-run") == 0
    assert aws.describe() is None
    assert "nobody is told of failures" in capsys.readouterr().err
    assert run("deploy", "--yes", "--set", "AlarmEmail=me@example.org") == 0
    captured = capsys.readouterr()
    assert "nobody is told" not in captured.err
    assert f"make stack pictures-data in {REGION}" in captured.err
    assert f"make stack pictures-serverless in {REGION}" in captured.err
    assert "confirm the mail" in captured.out
    assert "deploy --set Schedules=yes" in captured.out
    outputs = aws.outputs()
    assert outputs["Input"] in captured.out
    there = locations_of(aws, outputs, "aarch64")
    assert there.application == f"s3://pictures-models-123456789012-{REGION}/application/aarch64"
    assert (there.region, there.table) == (REGION, "pictures.snapshot")
    assert aws.sibling("cluster").describe() is None

    s3 = aws.client("s3")
    bucket = f"pictures-models-123456789012-{REGION}"
    listed = {entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert {key for key in listed if not key.startswith("templates/serverless-")} == {
        f"application/aarch64/{name}" for name in (*BUILT, "launch.py", "log4j2.properties", "emr.yaml")
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
    stays = capsys.readouterr().out
    assert re.search(r"key +1\.00\n", stays)
    assert re.search(r"sum +\d+\.\d\d\n", stays)
    assert aws.sibling("serverless").describe() is None
    assert s3.get_object(Bucket=pictures, Key="pictures/a.jpg")["Body"].read() == b"2"
    assert run("destroy", "--data", "--yes") == 0
    assert "pictures is gone, with 9 objects" in capsys.readouterr().out
    assert aws.describe() is None
    assert s3.list_buckets()["Buckets"] == []
    assert run("destroy", "--yes") == 0
    assert "nothing stays" in capsys.readouterr().out


def test_each_form_is_taken_down_alone(deployed: Stack) -> None:
    assert run("destroy", "--yes", "--compute", "cluster") == 0
    assert deployed.sibling("cluster").describe() is None
    assert deployed.sibling("serverless").describe() is not None
    assert run("destroy", "--yes", "--compute", "cluster", "--data") == 2


def test_deploying_again_keeps_what_was_set_before(deployed: Stack) -> None:
    def parameters(part: Part) -> dict[str, str]:
        return stacks.parameters_of(deployed.sibling(part).describe() or {})

    before = {part: parameters(part) for part in PARTS}
    assert run("deploy", "--yes", "--set", "MonthlyBudget=50", "--set", "Schedules=yes") == 0
    assert run("deploy", "--yes") == 0
    assert run("deploy", "--yes", "--compute", "cluster", "--set", "TaskNodes=1") == 0
    assert parameters("data") == {**before["data"], "MonthlyBudget": "50"}
    assert parameters("serverless") == {**before["serverless"], "Schedules": "yes"}
    assert parameters("cluster") == {**before["cluster"], "TaskNodes": "1"}
    refit = json.loads(parameters("cluster")["RefitArguments"])
    assert refit[0] == "spark-submit"
    assert refit[-2:] == ["--promote", "if-not-worse"]
    assert refit[refit.index("--embeddings") + 1] == deployed.outputs()["Output"]
    assert "--weights" not in refit  # the model's backbone is in the registry already
    replay = json.loads(parameters("serverless")["ReplayJob"])["SparkSubmit"]
    words = replay["EntryPointArguments"]
    assert words[-5:] == ["--discovery", "events", "--queue", deployed.outputs()["QueueUrl"], "--skip-if-running"]
    assert "METRICS_GROUP=/picture-features/pictures" in replay["SparkSubmitParameters"]
    export = json.loads(parameters("serverless")["ExportJob"])["SparkSubmit"]["EntryPointArguments"]
    assert export[export.index("--glue-table") + 1] == "pictures.snapshot"
    assert export[export.index("--to") + 1] == deployed.outputs()["Snapshots"]
    assert all(len(value) <= 4096 for part in PARTS for value in parameters(part).values())  # the most there may be


def test_another_platform_is_another_application_and_other_machines(deployed: Stack) -> None:
    assert run("deploy", "--yes", "--compute", "cluster", "--platform", "x86_64") == 0
    assert deployed.sibling("cluster").outputs()["Platform"] == "x86_64"
    types = stacks.parameters_of(deployed.sibling("cluster").describe() or {})["InstanceTypes"]
    assert "m6i.xlarge" in types


def test_a_job_is_what_was_shown_and_a_dry_run_starts_none(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("submit", "run", "--dry-run") == 0
    assert jobs(deployed) == steps(deployed) == []
    assert run("submit", "run", "--yes") == 0
    [job] = jobs(deployed)
    captured = capsys.readouterr()
    assert f"logs --job {job['jobRunId']}" in captured.out
    outputs = deployed.outputs()
    submitted = job["jobDriver"]["sparkSubmit"]
    words = submitted["entryPointArguments"]
    assert words[:2] == ["streaming", "run"]
    assert words[words.index("--queue") + 1] == outputs["QueueUrl"]
    assert words[words.index("--output") + 1] == outputs["Output"]
    assert "spark.yarn" not in submitted["sparkSubmitParameters"]
    assert json.dumps(submitted["sparkSubmitParameters"]) in captured.err
    tell(deployed, Pictures=1200, SecondsBehind=3.5)
    assert run("status") == 0
    status = capsys.readouterr().out
    assert f"application  {application_of(deployed).id} STARTED emr-7.12.0" in status
    assert f"job          {job['jobRunId']} SUCCESS picture-features run" in status
    assert "schedules    off" in status
    assert "pictures in the last hour            1,200" in status
    assert "seconds behind, at most              3.5" in status


def test_a_step_runs_where_it_is_told_to(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("submit", "run", "--yes", "--compute", "cluster") == 0
    assert jobs(deployed) == []
    [step] = steps(deployed)
    words = step["Config"]["Args"]
    assert words[0] == "spark-submit"
    outputs = deployed.outputs()
    assert words[words.index("--queue") + 1] == outputs["QueueUrl"]
    assert words[words.index("--jars") + 1].endswith("/aarch64/spark-hadoop-cloud.jar")
    assert step["ActionOnFailure"] == "CONTINUE"
    captured = capsys.readouterr()
    assert f"logs --step {step['Id']}" in captured.out
    assert "--deploy-mode cluster" in captured.err
    assert run("status") == 0
    status = capsys.readouterr().out
    assert f"cluster      {deployed.sibling('cluster').outputs()['ClusterId']} RUNNING" in status
    assert f"step         {step['Id']} RUNNING picture-features run" in status


def test_waiting_follows_a_job_to_its_end_with_what_it_prints(
    deployed: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(("RUNNING", "RUNNING", "SUCCESS"))
    said = iter(("first", "second", "third"))

    def run_of(self: Application, job: str) -> dict[str, Any]:
        print_line(deployed, f"{job}-{(line := next(said))}", line)
        return {"state": next(answers), "jobRunId": job}

    monkeypatch.setattr(Application, "run", run_of)
    assert run("submit", "replay", "--yes", "--wait") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:3] == ["first", "second", "third"]
    assert out.endswith(" is done\n")


def test_a_job_that_fails_while_one_waits_is_a_failure_with_its_reason(
    deployed: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Application, "run", lambda *_: {"state": "FAILED", "stateDetails": "exit code 4"})
    assert run("submit", "replay", "--yes", "--wait") == 1
    assert re.search(r"job \w+ is FAILED: exit code 4", capsys.readouterr().err)


def test_waiting_for_a_step_ends_with_it(
    deployed: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    emr = deployed.client("emr")
    answers = iter(
        ({"State": "RUNNING"}, {"State": "COMPLETED"}, {"State": "FAILED", "FailureDetails": {"Reason": "exit 4"}})
    )
    monkeypatch.setattr(emr, "describe_step", lambda **_: {"Step": {"Status": next(answers)}})
    assert run("submit", "reconcile", "--yes", "--wait", "--compute", "cluster") == 0
    assert "is done" in capsys.readouterr().out
    assert run("submit", "reconcile", "--yes", "--wait", "--compute", "cluster") == 1
    assert re.search(r"step \S+ is FAILED: exit 4", capsys.readouterr().err)


def test_the_program_gets_the_settings_that_were_submitted(
    deployed: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not those of the last deploy, of which spark-submit would know nothing."""
    settings = tmp_path / "mine.yaml"
    settings.write_text("stream: {interval: 45s}\nspark: {master: null, conf: {spark.executor.cores: '8'}}\n")
    uri = f"{deployed.outputs()['Applications']}/aarch64/emr.yaml"
    bucket, key = uri.removeprefix("s3://").split("/", 1)

    def there() -> str:
        return str(deployed.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode())

    assert run("submit", "run", "--dry-run", "--settings", str(settings)) == 0
    assert f"upload {settings} as {uri}\nstart on EMR Serverless" in capsys.readouterr().err
    assert there() == SETTINGS.read_text()
    assert run("submit", "run", "--yes", "--settings", str(settings)) == 0
    assert there() == settings.read_text()
    [job] = jobs(deployed)
    assert "spark.executor.cores=8" in job["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"]


def test_a_fit_needs_the_converted_backbone(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("submit", "fit", "--yes") == 6
    assert "python -m batch_fit convert --to build/emr/aarch64/backbone.tflite" in capsys.readouterr().err
    Path("build/emr/aarch64/backbone.tflite").write_bytes(b"flat")
    uri = f"{deployed.outputs()['Applications']}/aarch64"
    assert "backbone.tflite" in upload(deployed, Path("build/emr/aarch64"), SETTINGS, uri)
    assert run("submit", "fit", "--yes", "--", "--limit", "100") == 0
    [job] = jobs(deployed)
    submitted = job["jobDriver"]["sparkSubmit"]
    assert submitted["entryPointArguments"][-4:] == ["--weights", "backbone.tflite", "--limit", "100"]
    assert "/aarch64/backbone.tflite" in submitted["sparkSubmitParameters"]


def test_logs_come_from_cloudwatch_and_from_the_archive(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("logs") == 6
    assert "nothing was printed in the last 1:00:00" in capsys.readouterr().err
    print_line(deployed, "applications/a/jobs/00one/SPARK_DRIVER/stderr", '{"Pictures": 3}')
    print_line(deployed, "applications/a/jobs/00two/SPARK_DRIVER/stderr", '{"Pictures": 4}')
    assert run("logs", "--since", "5min") == 0
    assert {*capsys.readouterr().out.splitlines()} == {'{"Pictures": 3}', '{"Pictures": 4}'}
    assert run("logs", "--job", "00two") == 0
    assert capsys.readouterr().out == '{"Pictures": 4}\n'

    assert run("logs", "--since", "soon") == 2
    assert "--since: 'soon' is not allowed: a duration is a number with a unit" in capsys.readouterr().err
    assert run("logs", "--step", "s-1") == 3
    assert "up to five minutes later" in capsys.readouterr().err
    cluster = deployed.sibling("cluster").outputs()["ClusterId"]
    application, container = "application_1700000000000_0007", "container_1700000000000_0007_01"
    for key, said in {
        "steps/s-1/stderr.gz": f"Submitted application {application}\nfinal status: FAILED",
        f"containers/{application}/{container}_000001/stderr.gz": "no model yet",
        f"containers/{application}/{container}_000002/stderr.gz": "an executor",
    }.items():
        bucket = f"pictures-logs-123456789012-{REGION}"
        deployed.client("s3").put_object(
            Bucket=bucket, Key=f"emr/{cluster}/{key}", Body=gzip.compress(f"{said}\n".encode())
        )
    assert run("logs", "--step", "s-1") == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["final status: FAILED", "no model yet"]


def test_the_address_of_a_ui_is_signed_by_aws(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    there = deployed.sibling("serverless").outputs()["ApplicationId"]
    with Stubber(deployed.client("emr-serverless")) as stub:
        wanted = {"applicationId": there, "jobRunId": "00one"}
        stub.add_response("get_dashboard_for_job_run", {"url": "https://one"}, wanted)
        assert run("ui", "--job", "00one") == 0
    cluster = deployed.sibling("cluster").outputs()["ClusterId"]
    with Stubber(deployed.client("emr")) as stub:
        history = {"ClusterId": cluster, "OnClusterAppUIType": "SparkHistoryServer"}
        stub.add_response("get_on_cluster_app_ui_presigned_url", {"PresignedURLReady": False}, history)
        ready = {"PresignedURLReady": True, "PresignedURL": "https://two"}
        stub.add_response("get_on_cluster_app_ui_presigned_url", ready, history)
        running = {"ClusterId": cluster, "OnClusterAppUIType": "ApplicationMaster", "ApplicationId": "application_1_1"}
        ready = {"PresignedURLReady": True, "PresignedURL": "https://three"}
        stub.add_response("get_on_cluster_app_ui_presigned_url", ready, running)
        assert run("ui") == 0
        assert run("ui", "--application", "application_1_1") == 0
    assert capsys.readouterr().out.split() == ["https://one", "https://two", "https://three"]


def test_the_nodes_of_a_cluster_are_told_by_fleet(deployed: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    from conf.emr.cluster import Cluster  # noqa: PLC0415 - as it is without the fixture

    cluster = Cluster(deployed, "j-1")
    fleet = {"InstanceFleetType": "TASK", "ProvisionedOnDemandCapacity": 0, "ProvisionedSpotCapacity": 3}
    with Stubber(deployed.client("emr")) as stub:
        stub.add_response("list_instance_fleets", {"InstanceFleets": [fleet]}, {"ClusterId": "j-1"})
        assert [*cluster._fleets()] == ["nodes        task 0 on demand, 3 spot"]


def test_stop_asks_the_stream(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stop", "--yes") == 0
    output = deployed.outputs()["Output"]
    assert capsys.readouterr().out == f"no stream runs on {output}\n"


def test_what_runs_is_cancelled_before_its_application_goes(aws: Stack) -> None:
    """EMR deletes none that is started."""
    with Stubber(aws.client("emr-serverless")) as stub:
        now, arn = datetime.now(UTC), "arn:aws:emr-serverless:us-east-1:123456789012:/applications/a"
        both = {"applicationId": "a", "createdAt": now, "updatedAt": now, "releaseLabel": "emr-spark-8.1.0"}
        role, me = "arn:aws:iam::123456789012:role/r", "arn:aws:iam::123456789012:user/me"
        run_ = {**both, "id": "00one", "arn": f"{arn}/jobruns/00one", "createdBy": me, "executionRole": role}
        run_ |= {"state": "RUNNING", "stateDetails": "-"}
        there = {**both, "arn": arn, "type": "Spark"}
        stub.add_response("list_job_runs", {"jobRuns": [run_]})
        stub.add_response("cancel_job_run", {"applicationId": "a", "jobRunId": "00one"})
        stub.add_response("list_job_runs", {"jobRuns": [{**run_, "state": "CANCELLING"}]})
        stub.add_response("list_job_runs", {"jobRuns": []})
        stub.add_response("get_application", {"application": {**there, "state": "STARTED"}})
        stub.add_response("stop_application", {})
        for state in ("STOPPING", "STOPPED"):
            stub.add_response("get_application", {"application": {**there, "state": state}})
        Application(aws, "a").stop()
        stub.assert_no_pending_responses()


def test_a_region_outside_the_union_has_to_be_allowed(aws: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    for region in ("us-east-1", "eu-west-2", "eusc-de-east-1"):
        assert main(["deploy", "--dry-run", "--region", region]) == 2
        assert f"'{region}' is not in the European Union; choose one of eu-central-1" in capsys.readouterr().err
    assert main(["deploy", "--dry-run", "--region", "eu-west-2", "--allow-non-eu"]) == 0
    assert main(["deploy", "--dry-run"]) == 0
    assert "make stack picture-features-data in eu-west-3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["deploy"], "nobody is there to be asked; give --yes"),
        (
            ["deploy", "--yes", "--settings", str(LOCAL)],
            "spark.master is 'local[*,4]', and would keep Spark on one node",
        ),
        (["deploy", "--yes", "--set", "Budget"], "--set: 'Budget' is not allowed: give NAME=VALUE"),
        (
            ["deploy", "--yes", "--set", "CoreNodes=3"],
            "--set: there is no parameter 'CoreNodes'; choose from AlarmEmail",
        ),
        (["submit", "run", "--yes"], "nothing of 'pictures' runs programs in us-east-1; python -m conf.emr deploy"),
        (["status"], "there is no stack 'pictures-data' in us-east-1; python -m conf.emr deploy makes it"),
        (["logs", "--since", "soon"], "there is no stack 'pictures-data'"),
        (["ui"], "there is no stack 'pictures-cluster'"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    aws: Stack, capsys: pytest.CaptureFixture[str], words: Sequence[str], said: str
) -> None:
    assert run(*words) > 0
    *_, last = capsys.readouterr().err.splitlines()
    assert said in last


def test_a_package_that_is_missing_is_told_with_the_command(aws: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    Path("build/emr/aarch64/application.zip").unlink()
    assert run("deploy", "--yes") == 2
    assert "application.zip is missing; python -m conf.emr package --platform aarch64" in capsys.readouterr().err


OUTPUTS = (
    "Applications", "Input", "Models", "Output", "QueueUrl", "LogGroupName", "Snapshots", "Database", "KeyArn",
    "Schedules",
)  # fmt: skip


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
    monkeypatch.setattr(Stack, "outputs", lambda _: dict.fromkeys(OUTPUTS, "s3://there"))
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
            upload(deployed, tmp_path / "build" / "emr" / "aarch64", SETTINGS, "s3://there/application")
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
