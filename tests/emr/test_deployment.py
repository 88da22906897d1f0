"""Deploy and destroy from the command line, on moto's server."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from conf.aws.connection import forget_clients
from conf.emr import stack as stacks
from conf.emr.__main__ import main
from conf.emr.application import locations_of
from conf.emr.serverless import Application
from conf.emr.stack import Part, Stack
from conf.errors import AppError
from tests.support.aws_account import (
    ABOUT,
    BUILT,
    LOCAL,
    PARTS,
    REGION,
    application_of,
    as_if,
    run,
)


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
    deploy = f"python -m conf.emr deploy {ABOUT}"
    assert f"{deploy} --compute serverless --set Schedules=yes turns the schedules on\n" in captured.out
    assert f"once python -m conf.emr submit {ABOUT} fit has made a model" in captured.out
    outputs = aws.outputs()
    assert re.search(rf"^Input +{outputs['Input']}$", captured.out, flags=re.MULTILINE)
    assert re.search(r"^ApplicationId +\w+$", captured.out, flags=re.MULTILINE)
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
    assert stays.endswith(f"python -m conf.emr destroy {ABOUT} --data deletes it\n")
    assert aws.sibling("serverless").describe() is None
    assert run("status") == 0
    assert capsys.readouterr().out == f"nothing runs programs; {deploy} makes what does\n"
    assert s3.get_object(Bucket=pictures, Key="pictures/a.jpg")["Body"].read() == b"2"
    assert run("destroy", "--data", "--yes") == 0
    assert "pictures is gone, with 8 objects" in capsys.readouterr().out
    assert aws.describe() is None
    assert s3.list_buckets()["Buckets"] == []
    assert run("destroy", "--yes") == 0
    assert "nothing stays" in capsys.readouterr().out
    for words in (("--yes",), ("--dry-run",)):
        assert run("destroy", "--data", *words) == 0
        assert capsys.readouterr().out == f"there is nothing of pictures in {REGION}\n"
    s3.create_bucket(Bucket=pictures)
    assert run("destroy", "--data", "--yes") == 0
    assert "pictures is gone, with 0 objects" in capsys.readouterr().out


def test_what_was_set_is_told_by_destroy_as_it_goes_with_the_stack(
    aws: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("deploy", "--yes", "--set", "MaximumVcpus=24", "--set", "IdleMinutes=5") == 0
    capsys.readouterr()
    assert run("destroy", "--dry-run") == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "to have it back as it is: " in line]
    assert shlex.split(line.partition(": python -m conf.emr ")[2]) == [
        *("deploy", *ABOUT.split(), "--compute", "serverless"),
        *("--platform", "aarch64", "--set", "MaximumVcpus=24"),
    ]


def test_a_stack_that_takes_no_change_is_named_before_anything_is_done(
    deployed: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what AWS wants to be done."""
    describe, status = Stack.describe, ""

    def described(stack: Stack) -> Mapping[str, Any] | None:
        there = describe(stack)
        return {**there, "StackStatus": status} if there and stack.part == "serverless" else there

    with monkeypatch.context() as patch:
        patch.setattr(Stack, "describe", described)
        for status, remedy in (
            ("UPDATE_ROLLBACK_FAILED", "aws cloudformation continue-update-rollback --stack-name pictures-serverless"),
            ("DELETE_FAILED", f"destroy {ABOUT} --compute serverless deletes it"),
            ("REVIEW_IN_PROGRESS", "aws cloudformation delete-stack --stack-name pictures-serverless"),
        ):
            assert run("deploy", "--yes") == 6
            said = capsys.readouterr().err
            assert f"stack pictures-serverless is {status}; " in said
            assert remedy in said
            assert "change stack" not in said


def test_a_stack_that_takes_no_change_is_deleted_without_one(aws: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with schedules, which are turned off first elsewhere: AWS would refuse that."""
    assert run("deploy", "--yes", "--set", "Schedules=yes") == 0
    describe = Stack.describe

    def described(stack: Stack) -> Mapping[str, Any] | None:
        there = describe(stack)
        return {**there, "StackStatus": "UPDATE_ROLLBACK_FAILED"} if there and stack.part == "serverless" else there

    def refuse(stack: Stack, _: Mapping[str, str]) -> bool:
        assert stack.part == "data"
        raise AppError("refused")  # what is left is a line of the log

    monkeypatch.setattr(Stack, "describe", described)
    monkeypatch.setattr(Stack, "change", refuse)
    assert run("destroy", "--yes") == 0
    assert aws.sibling("serverless").describe() is None


def test_an_application_that_works_is_not_changed(
    deployed: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """EMR would refuse it half way; other changes are carried out, and what they mean for the job is said."""
    with monkeypatch.context() as patch:
        patch.setattr(Application, "active", lambda _: ["picture-features run"])
        assert run("deploy", "--yes", "--set", "MaximumVcpus=24") == 7
        said = capsys.readouterr().err
        assert "another MaximumVcpus changes the application, which EMR refuses while a job runs" in said
        assert "(picture-features run): stop the stream, or wait for the job" in said
        assert "change stack" not in said
        assert run("deploy", "--yes", "--set", "Schedules=yes") == 0
    assert "while picture-features run runs: an executor that joins it" in capsys.readouterr().err


def test_each_form_is_taken_down_alone(deployed: Stack) -> None:
    assert run("destroy", "--yes", "--compute", "cluster") == 0
    assert deployed.sibling("cluster").describe() is None
    assert deployed.sibling("serverless").describe() is not None
    assert run("destroy", "--yes", "--compute", "cluster", "--data") == 2


def test_no_schedule_starts_what_is_being_deleted(
    aws: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever breaks it off is told how they come back: the next plan of destroy does not know of them."""
    assert run("deploy", "--yes", "--set", "Schedules=yes") == 0
    done: list[object] = []
    change, stop = Stack.change, Application.stop

    def changed(stack: Stack, parameters: Mapping[str, str]) -> bool:
        done.append(parameters)
        return change(stack, parameters)

    def stopped(application: Application) -> None:
        done.append("stop")
        stop(application)

    monkeypatch.setattr(Stack, "change", changed)
    monkeypatch.setattr(Application, "stop", stopped)
    assert run("destroy", "--yes") == 0
    assert done == [{"Schedules": "no"}, "stop"]
    again = f"python -m conf.emr deploy {ABOUT} --set Schedules=yes"
    assert (
        f"the schedules are off from now on; if the stack stays, turn them on with {again}" in capsys.readouterr().err
    )


def test_a_network_is_not_changed_into_none_nor_into_two(aws: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """It would fail half way, or be ignored by the template; nothing is done."""
    both = ("deploy", "--yes", "--set", "Network=yes", "--set", "SubnetIds=subnet-1")
    assert run(*both) == 2
    assert "SubnetIds=subnet-1 is not allowed beside Network=yes" in capsys.readouterr().err
    assert aws.describe() is None
    assert run("deploy", "--yes", "--set", "Network=yes") == 0
    for words in (("--set", "Network=no"), ("--set", "SubnetIds=subnet-1")):
        capsys.readouterr()
        assert run("deploy", "--yes", *words) == 2
        assert "change stack" not in (said := capsys.readouterr().err)
        assert "is not allowed" in said
    assert run("deploy", "--yes", "--set", "Network=no") == 2
    assert f"python -m conf.emr destroy {ABOUT} --compute serverless takes it down" in capsys.readouterr().err
    assert run("deploy", "--yes", "--set", "IdleMinutes=7") == 0
    assert stacks.parameters_of(aws.sibling("serverless").describe() or {})["Network"] == "yes"


def test_without_a_network_replay_lists_and_nobody_waits_for_the_queue(
    aws: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    def queue_is_taken() -> str:
        return stacks.parameters_of(aws.describe() or {})["QueueIsTaken"]

    assert run("deploy", "--yes") == 0
    there = stacks.parameters_of(aws.sibling("serverless").describe() or {})
    words = json.loads(there["ReplayJob"])["SparkSubmit"]["EntryPointArguments"]
    assert "--queue" not in words
    assert words[-1] == "--skip-if-running"
    assert queue_is_taken() == "no"
    assert run("submit", "run", "--yes") == 2
    assert f"deploy {ABOUT} --set Network=yes makes one" in capsys.readouterr().err
    assert run("submit", "replay", "--dry-run") == 0
    assert "--queue" not in capsys.readouterr().err
    assert run("deploy", "--yes", "--compute", "cluster") == 0
    assert queue_is_taken() == "yes"
    assert run("deploy", "--yes") == 0
    assert queue_is_taken() == "yes"  # by the stream on the cluster
    assert run("destroy", "--yes", "--compute", "cluster") == 0
    assert queue_is_taken() == "no"
    assert run("deploy", "--yes") == 0
    assert queue_is_taken() == "no"
    assert run("deploy", "--yes", "--set", "Network=yes") == 0
    assert queue_is_taken() == "yes"


def test_what_an_interrupted_deploy_has_begun_is_waited_for(
    aws: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert run("deploy", "--yes") == 0
    changing = {"pictures-data": 1, "pictures-serverless": 2}
    describe = Stack.describe

    def described(stack: Stack) -> Mapping[str, Any] | None:
        there = describe(stack)
        if there and asked and changing.get(stack.full_name, 0):
            changing[stack.full_name] -= 1
            return {**there, "StackStatus": "UPDATE_IN_PROGRESS"}
        return there

    def consent(*_: object) -> bool:
        asked.append(True)
        return True

    asked: list[bool] = []
    monkeypatch.setattr(Stack, "describe", described)
    for module in ("deployment", "destruction"):
        monkeypatch.setattr(f"conf.emr.{module}.agreed", consent)
    assert run("deploy") == 0
    assert set(changing.values()) == {0}
    changing |= {"pictures-serverless": 1, "pictures-data": 1}
    asked.clear()
    assert run("destroy", "--data") == 0
    assert set(changing.values()) == {0}
    assert aws.describe() is None


def test_a_job_that_ends_while_it_is_cancelled_keeps_nothing_from_being_deleted(
    aws: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("deploy", "--yes") == 0
    application, states = application_of(aws), iter(("SUCCESS", "RUNNING"))
    monkeypatch.setattr(Application, "run", lambda *_: {"state": next(states)})
    with Stubber(aws.client("emr-serverless")) as stub:
        stub.add_client_error("cancel_job_run", "ValidationException")
        application._cancel("00one")
        stub.add_client_error("cancel_job_run", "ValidationException")
        with pytest.raises(ClientError):
            application._cancel("00one")


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


def test_a_deploy_after_a_first_try_that_failed_keeps_what_was_set(
    aws: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its plan says, though what is left of the first try is deleted."""

    def parameters(part: Part) -> dict[str, str]:
        return stacks.parameters_of(aws.sibling(part).describe() or {})

    def identity(part: Part) -> str:
        return str((aws.sibling(part).describe() or {})["StackId"])

    sets = ("--set", "AlarmEmail=me@example.org", "--set", "Network=yes")
    assert run("deploy", "--yes", *sets) == 0
    assert run("deploy", "--yes", "--compute", "cluster", "--platform", "x86_64", "--set", "TaskNodes=1") == 0
    before = {part: parameters(part) for part in PARTS}
    former = {part: identity(part) for part in PARTS}
    as_if(monkeypatch, serverless="ROLLBACK_COMPLETE", cluster="ROLLBACK_COMPLETE")
    capsys.readouterr()
    assert run("deploy", "--yes") == 0
    assert "nobody is told" not in capsys.readouterr().err
    assert run("deploy", "--yes", "--compute", "cluster") == 0
    assert {part: parameters(part) for part in PARTS} == before
    assert "m6i.xlarge" in parameters("cluster")["InstanceTypes"]
    assert {part for part in PARTS if identity(part) != former[part]} == {"serverless", "cluster"}


def test_the_data_of_a_first_try_that_failed_is_made_with_what_was_set(
    aws: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.apply({"Name": "pictures", "AllowNonEu": "yes", "AlarmEmail": "me@example.org"})
    as_if(monkeypatch, data="ROLLBACK_COMPLETE")
    assert run("deploy", "--yes") == 0
    assert stacks.parameters_of(aws.describe() or {})["AlarmEmail"] == "me@example.org"


def test_what_is_being_deleted_leaves_no_parameters_to_the_plan(
    aws: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the deploy has waited for its end, there is nothing that could keep them."""
    assert run("deploy", "--yes", "--set", "AlarmEmail=me@example.org") == 0
    as_if(monkeypatch, data="DELETE_IN_PROGRESS")
    capsys.readouterr()
    assert run("deploy", "--dry-run") == 0
    said = capsys.readouterr().err
    assert "make stack pictures-data" in said
    assert "nobody is told" in said


@pytest.mark.parametrize(
    ("status", "taken"), [("ROLLBACK_COMPLETE", "no"), ("DELETE_IN_PROGRESS", "no"), ("CREATE_IN_PROGRESS", "yes")]
)
def test_a_cluster_that_never_comes_takes_nothing_from_the_queue(
    aws: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: str, taken: str
) -> None:
    assert run("deploy", "--yes", "--compute", "cluster") == 0
    as_if(monkeypatch, cluster=status)
    capsys.readouterr()
    assert run("deploy", "--yes") == 0
    assert stacks.parameters_of(aws.describe() or {})["QueueIsTaken"] == taken


def test_another_platform_is_another_application_and_other_machines(deployed: Stack) -> None:
    assert run("deploy", "--yes", "--compute", "cluster", "--platform", "x86_64") == 0
    assert deployed.sibling("cluster").outputs()["Platform"] == "x86_64"
    types = stacks.parameters_of(deployed.sibling("cluster").describe() or {})["InstanceTypes"]
    assert "m6i.xlarge" in types


def test_a_region_outside_the_union_has_to_be_allowed(aws: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    for region in ("us-east-1", "eu-west-2", "eusc-de-east-1"):
        assert main(["deploy", "--dry-run", "--region", region]) == 2
        assert f"'{region}' is not in the European Union; choose one of eu-central-1" in capsys.readouterr().err
    assert main(["deploy", "--dry-run", "--region", "eu-west-2", "--allow-non-eu"]) == 0
    assert main(["deploy", "--dry-run"]) == 0
    assert "make stack picture-features-data in eu-west-3" in capsys.readouterr().err


@pytest.mark.parametrize(("compute", "nothing"), [("serverless", "8 USD"), ("cluster", "571 USD")])
def test_a_dry_run_needs_neither_aws_nor_credentials_nor_a_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, compute: str, nothing: str
) -> None:
    """It says what would be made, and what a month of that costs."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget_clients()
    assert main(["deploy", "--dry-run", "--compute", compute]) == 0
    said = capsys.readouterr().err
    assert said.startswith("not compared with what is there, and not checked: no AWS credentials were found")
    assert f"make stack picture-features-{compute} in eu-west-3" in said
    assert "4 S3::Bucket" in " ".join(said.split())
    assert "package --platform aarch64 builds the former first" in said
    assert f"a month costs some {nothing} while no picture comes" in said
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    forget_clients()
    assert main(["deploy", "--dry-run", "--compute", compute]) == 0
    assert "not checked: AWS does not answer: Could not connect" in capsys.readouterr().err
    forget_clients()


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
        (["deploy", "--yes", "--set", "Platform=x86_64"], "--set: there is no parameter 'Platform'; choose from"),
        (
            ["submit", "run", "--yes"],
            f"nothing of 'pictures' runs programs in us-east-1; python -m conf.emr deploy {ABOUT}",
        ),
        (["status"], f"there is no stack 'pictures-data' in us-east-1; python -m conf.emr deploy {ABOUT} makes it"),
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


def test_a_check_that_fails_is_a_line_and_nothing_is_made(
    aws: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conf.emr.deployment.check", lambda *_: ["one: do this", "two: do that"])
    assert run("deploy", "--yes") == 7
    one, two, last = capsys.readouterr().err.splitlines()
    assert '"one: do this"' in one
    assert '"two: do that"' in two
    assert "deploy: 2 checks failed; fix what is named, or deploy all the same with --no-check" in last
    assert aws.describe() is None
    assert run("deploy", "--dry-run", "--no-check") == 0


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
