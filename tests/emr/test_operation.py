"""Submit, status, logs, ui and stop from the command line, on moto's server."""

from __future__ import annotations

import errno
import gzip
import io
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from conf.emr.application import SETTINGS, EmrSettings, upload
from conf.emr.serverless import Application
from conf.emr.stack import Stack
from streaming.output.manifests import prepare_log
from streaming.storage.locations import open_folder
from tests.support.aws_account import (
    ABOUT,
    REGION,
    application_of,
    as_if,
    jobs,
    print_line,
    run,
    steps,
    tell,
)


def test_a_job_is_what_was_shown_and_a_dry_run_starts_none(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("submit", "run", "--dry-run") == 0
    assert jobs(deployed) == steps(deployed) == []
    assert run("submit", "run", "--yes") == 0
    [job] = jobs(deployed)
    captured = capsys.readouterr()
    assert f"python -m conf.emr logs {ABOUT} --job {job['jobRunId']} what it prints" in captured.out
    assert f"python -m conf.emr status {ABOUT} shows its state" in captured.out
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
    assert words[words.index("--py-files") + 1].endswith("/aarch64/application.zip")
    assert step["ActionOnFailure"] == "CONTINUE"
    captured = capsys.readouterr()
    assert f"python -m conf.emr logs {ABOUT} --step {step['Id']}" in captured.out
    assert "--deploy-mode cluster" in captured.err
    assert run("status") == 0
    status = capsys.readouterr().out
    assert f"cluster      {deployed.sibling('cluster').outputs()['ClusterId']} RUNNING" in status
    assert f"step         {step['Id']} RUNNING picture-features run" in status


@pytest.mark.parametrize("compute", ["serverless", "cluster"])
def test_a_replay_by_hand_takes_what_waits_in_the_queue(
    deployed: Stack, capsys: pytest.CaptureFixture[str], compute: str
) -> None:
    """The alarm NotTakenIn, on the age of what waits there, would not end otherwise."""

    def words_of(*more: str) -> list[str]:
        assert run("submit", "replay", "--dry-run", "--compute", compute, *more) == 0
        return re.sub(r'[",]', " ", capsys.readouterr().err).split()

    words = words_of()
    assert words[words.index("--queue") + 1] == deployed.outputs()["QueueUrl"]
    assert words[words.index("--discovery") + 1] == "events"
    assert "--skip-if-running" not in words  # who asks for it wants to know that it could not
    assert "--queue" not in words_of("--", "--discovery", "listing")


def test_an_export_by_hand_has_a_place_before_it_costs_anything(
    deployed: Stack, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = tmp_path / "mine.yaml"
    settings.write_text("export: {to: 's3://b/mine'}\nspark: {master: null}\n")

    def place_of(*more: str) -> str:
        assert run("submit", "export", "--dry-run", "--compute", "cluster", *more) == 0
        return " ".join(re.findall(r"--to[ =](\S+)", capsys.readouterr().err))

    assert place_of() == deployed.outputs()["Snapshots"]
    assert place_of("--", "--to", "s3://b/csv", "--format", "csv") == "s3://b/csv"
    assert place_of("--", "--to=s3://b/csv") == "s3://b/csv"
    assert place_of("--settings", str(settings)) == ""  # the file has it
    for csv in (("--format", "csv"), ("--format=csv",)):
        assert run("submit", "export", "--yes", "--", *csv) == 2
        assert "give CSV a folder of its own: -- --to s3://..." in capsys.readouterr().err
    assert jobs(deployed) == []


def test_a_form_that_is_not_whole_is_told_and_passed_over(
    deployed: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_if(monkeypatch, serverless="ROLLBACK_COMPLETE")
    assert run("status") == 0
    said = capsys.readouterr().out
    assert f"stack pictures-serverless is ROLLBACK_COMPLETE; python -m conf.emr deploy {ABOUT} makes it again\n" in said
    assert re.search(r"^cluster +j-\w+ ", said, flags=re.MULTILINE)
    assert run("submit", "run", "--yes") == 0
    assert len(steps(deployed)) == 1
    assert run("submit", "run", "--yes", "--compute", "serverless") == 6
    assert "stack pictures-serverless is ROLLBACK_COMPLETE; python -m conf.emr deploy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        ("ROLLBACK_COMPLETE", f"python -m conf.emr deploy {ABOUT} --compute cluster makes it again"),
        ("CREATE_IN_PROGRESS", "wait until that is done"),
        ("DELETE_IN_PROGRESS", "wait until that is done"),
        (
            "DELETE_FAILED",
            f"python -m conf.emr destroy {ABOUT} --compute cluster deletes it, and python -m conf.emr deploy {ABOUT}",
        ),
    ],
)
def test_without_a_form_that_is_whole_the_line_says_what_to_do(
    aws: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: str, remedy: str
) -> None:
    assert run("deploy", "--yes", "--compute", "cluster") == 0
    as_if(monkeypatch, cluster=status)
    capsys.readouterr()
    assert run("status") == 0
    assert f"stack pictures-cluster is {status}; {remedy}" in capsys.readouterr().out
    assert run("submit", "run", "--yes") == 6
    assert f"stack pictures-cluster is {status}; {remedy}" in capsys.readouterr().err


def test_data_whose_first_try_failed_are_told_by_every_verb(
    aws: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.apply({"Name": "pictures", "AllowNonEu": "yes"})
    as_if(monkeypatch, data="ROLLBACK_COMPLETE")
    line = f"stack pictures-data is ROLLBACK_COMPLETE; python -m conf.emr deploy {ABOUT} makes it again"
    assert run("status") == 0
    assert capsys.readouterr().out == f"{line}\n"
    for words in (("logs",), ("stop", "--yes")):
        assert run(*words) == 6
        assert line in capsys.readouterr().err


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
    deployed: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not those of the last deploy, of which spark-submit would know nothing, nor those of the shell here."""
    settings = tmp_path / "mine.yaml"
    settings.write_text("stream: {interval: 45s}\nspark: {master: null, conf: {spark.executor.cores: '8'}}\n")
    uri = f"{deployed.outputs()['Applications']}/aarch64/emr.yaml"
    bucket, key = uri.removeprefix("s3://").split("/", 1)

    def there() -> str:
        return str(deployed.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode())

    assert run("submit", "run", "--dry-run", "--settings", str(settings)) == 0
    assert f"upload {settings} as {uri}\nstart on EMR Serverless" in capsys.readouterr().err
    assert there() == SETTINGS.read_text()
    monkeypatch.setenv("PICTURE_FEATURES_SPARK__CONF", '{"spark.executor.cores": "2"}')  # of this machine
    assert run("submit", "run", "--yes", "--settings", str(settings)) == 0
    monkeypatch.delenv("PICTURE_FEATURES_SPARK__CONF")
    assert there() == settings.read_text()
    [job] = jobs(deployed)
    assert "spark.executor.cores=8" in job["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"]
    capsys.readouterr()
    assert run("submit", "reconcile", "--yes") == 0  # as an alarm's mail has it: without --settings
    assert f"with the settings in {uri}\nstart on EMR Serverless" in capsys.readouterr().err
    assert run("deploy", "--yes") == 0
    assert f"the settings stay as they are in {uri}" in capsys.readouterr().err
    assert there() == settings.read_text()
    deployed.client("s3").put_object(Bucket=bucket, Key=key, Body=b"stream: {pause: 45s}\nspark: {master: null}\n")
    assert run("deploy", "--yes") == 2
    said = capsys.readouterr().err
    assert uri in said
    assert "stream.pause" in said
    assert "give others with --settings FILE" in said
    assert run("deploy", "--yes", "--settings", str(SETTINGS)) == 0
    assert there() == SETTINGS.read_text()


def test_a_fit_needs_the_converted_backbone(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("submit", "fit", "--yes") == 6
    assert "python -m batch_fit convert --to build/emr/aarch64/backbone.tflite" in capsys.readouterr().err
    Path("build/emr/aarch64/backbone.tflite").write_bytes(b"flat")
    uri = f"{deployed.outputs()['Applications']}/aarch64"
    upload(deployed, Path("build/emr/aarch64"), EmrSettings.choose(deployed, None, [uri]), uri)
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


class _Closed(io.StringIO):
    """The pipe to a reader who has left, like `head`."""

    def flush(self) -> None:
        raise BrokenPipeError


def test_the_reader_of_logs_may_have_seen_enough(
    deployed: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_line(deployed, "a former job", "line")
    monkeypatch.setattr(sys, "stdout", _Closed())
    with pytest.raises(SystemExit, match=r"^0$"):
        run("logs")
    assert "failure" not in capsys.readouterr().err


@pytest.mark.parametrize(("state", "code"), [("SUCCESS", 0), ("FAILED", 1)])
def test_a_job_is_waited_for_although_nobody_reads_what_it_prints(
    deployed: Stack, state: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is the job's."""

    def run_of(_self: Application, job: str) -> dict[str, Any]:
        print_line(deployed, job, "line")
        return {"state": state, "jobRunId": job}

    monkeypatch.setattr(Application, "run", run_of)
    monkeypatch.setattr(sys, "stdout", _Closed())
    assert run("submit", "replay", "--yes", "--wait") == code


def test_a_broken_connection_is_not_taken_for_the_reader(
    deployed: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("conf.emr.operation.driver_logs", broken)
    assert run("logs") == 1
    assert "unexpected failure: BrokenPipeError" in capsys.readouterr().err


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
    output = deployed.outputs()["Output"]
    prepare_log(open_folder(output))
    assert run("stop", "--yes") == 0
    assert capsys.readouterr().out.startswith(f"no stream runs on {output}\n")


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
