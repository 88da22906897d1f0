"""What EMR is told and what it costs, without AWS: the arguments of spark-submit, the estimate, the examples."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore import xform_name
from botocore.session import get_session
from botocore.validate import validate_parameters

from conf.emr import cost, serverless
from conf.emr.__main__ import command_line, main
from conf.emr.application import SETTINGS
from conf.emr.permissions import PERMISSIONS
from conf.emr.spark_submit import SUBMITTED, Locations, scheduled, spark_submit_arguments
from conf.errors import SettingsError
from conf.loading import load_settings

ROOT = Path(__file__).parents[2]
PLACES = Locations("s3://a/x86_64", "s3://in/pictures", "s3://m/models", "s3://out/table", "eu-west-3", "https://sqs/q")
YARN_MEMORY = 12_288  # MB that EMR gives YARN on a node of 16 GB


def properties(words: list[str]) -> dict[str, str]:
    pairs = [words[place + 1] for place, word in enumerate(words) if word == "--conf"]
    return dict(pair.split("=", 1) for pair in pairs)


def submitted(verb: str, **settings: Any) -> list[str]:
    return spark_submit_arguments(verb, load_settings(settings, SETTINGS), PLACES)


def after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_a_stream_has_attempts_that_grow_back_and_a_step_has_one() -> None:
    stream = properties(submitted("run"))
    assert stream["spark.yarn.maxAppAttempts"] == "4"
    assert stream["spark.yarn.am.attemptFailuresValidityInterval"] == "1h"
    assert stream["spark.yarn.appMasterEnv.TMPDIR"] == "tmp"
    for verb in ("fit", "refit", "export", "reconcile", "replay"):
        step = properties(submitted(verb))
        assert step["spark.yarn.maxAppAttempts"] == "1"
        assert "spark.yarn.am.attemptFailuresValidityInterval" not in step


@pytest.mark.parametrize("verb", SUBMITTED)
def test_no_class_is_needed_that_emr_may_not_have(verb: str) -> None:
    """EMR has a committer of its own, and perhaps none of Spark's classes for clouds."""
    words = submitted(verb)
    assert not any("ommitter" in word or "commitProtocol" in word for word in words)
    assert not any("org.apache.spark.internal.io.cloud" in word for word in words)
    assert "--jars" not in words


def test_nothing_that_a_stream_writes_to_hdfs_grows() -> None:
    """Steps end, and are looked at in the History Server; the events of a stream would fill the disks."""
    assert properties(submitted("run"))["spark.eventLog.enabled"] == "false"
    assert "spark.eventLog.enabled" not in properties(submitted("fit"))


def test_an_executor_and_a_master_share_a_node_and_workers_have_a_gigabyte_each() -> None:
    given = properties(submitted("run"))

    def megabytes(of: str) -> int:
        return sum(int(given[f"spark.{of}.{kind}"].removesuffix("g")) * 1024 for kind in ("memory", "memoryOverhead"))

    assert megabytes("executor") + megabytes("driver") <= YARN_MEMORY
    cores = int(given["spark.executor.cores"])
    assert int(given["spark.executor.memoryOverhead"].removesuffix("g")) > cores


def test_every_driver_knows_the_region() -> None:
    for verb in SUBMITTED:
        assert properties(submitted(verb))["spark.yarn.appMasterEnv.AWS_REGION"] == "eu-west-3"


def test_the_file_of_the_user_wins() -> None:
    given = properties(submitted("run", **{"spark.conf": {"spark.executor.cores": "8", "spark.mine": "a b"}}))
    assert given["spark.executor.cores"] == "8"
    assert given["spark.mine"] == "a b"


def test_every_file_that_is_named_is_one_that_deploy_uploads() -> None:
    for verb in SUBMITTED:
        words = submitted(verb)
        assert after(words, "--py-files") == "s3a://a/x86_64/application.zip"
        assert after(words, "--archives") == "s3a://a/x86_64/dependencies.zip#dependencies"
        files = after(words, "--files").split(",")
        assert ("s3a://a/x86_64/backbone.tflite" in files) == (verb == "fit")
        launcher = words.index("s3a://a/x86_64/launch.py")
        module, named, *rest = words[launcher + 1 :]
        assert (module, named) == (SUBMITTED[verb].module, SUBMITTED[verb].verb)
        assert after(rest, "--config") == "emr.yaml"


def test_only_the_stream_follows_the_queue() -> None:
    assert after(submitted("run"), "--queue") == "https://sqs/q"
    assert after(submitted("run"), "--discovery") == "events"
    assert "--queue" not in submitted("replay")
    by_listing = Locations("s3://a", "s3://in", "s3://m", "s3://out", "eu-west-3")
    assert "--discovery" not in spark_submit_arguments("run", load_settings({}, SETTINGS), by_listing)


def test_a_verb_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="there is no 'walk'; choose from run, replay"):
        submitted("walk")


def test_what_comes_by_itself_drains_the_queue_and_stands_back_for_a_stream() -> None:
    places = replace(PLACES, snapshots="s3://out/snapshots", table="db.snapshot")
    of = scheduled(places)
    assert of["replay"] == ("--discovery", "events", "--queue", "https://sqs/q", "--skip-if-running")
    assert of["reconcile"] == ("--enqueue",)
    assert of["export"] == ("--to", "s3://out/snapshots", "--keep", "7", "--glue-table", "db.snapshot")
    assert of["refit"] == ("--limit", "100000", "--promote", "if-not-worse")
    assert "--embeddings" in submitted("refit")
    assert scheduled(replace(places, queue=None))["replay"] == ("--skip-if-running",)


def test_serverless_reaches_the_queue_from_a_network_only() -> None:
    assert not serverless.reaches_queue({"Network": "no", "SubnetIds": ""})
    assert serverless.reaches_queue({"Network": "yes", "SubnetIds": ""})
    assert serverless.reaches_queue({"Network": "no", "SubnetIds": "subnet-1"})


def test_the_driver_knows_where_its_metrics_go() -> None:
    name = "PICTURE_FEATURES_LOG__METRICS_GROUP"
    places = replace(PLACES, log_group="/g")
    settings = load_settings({}, SETTINGS)
    assert properties(spark_submit_arguments("run", settings, places))[f"spark.yarn.appMasterEnv.{name}"] == "/g"
    assert f"spark.yarn.appMasterEnv.{name}" not in properties(submitted("run"))
    job = serverless.job("run", settings, places, "arn:role")
    words = shlex.split(job["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"])
    assert properties(words)[f"spark.emr-serverless.driverEnv.{name}"] == "/g"


def test_a_stream_on_serverless_is_started_again_and_a_batch_job_is_not() -> None:
    settings = load_settings({}, SETTINGS)
    stream = serverless.job("run", settings, PLACES, "arn:role")
    batch = serverless.job("reconcile", settings, PLACES, "arn:role", ["--enqueue"])
    assert (stream["mode"], batch["mode"]) == ("STREAMING", "BATCH")
    assert stream["retryPolicy"] == {"maxFailedAttemptsPerHour": 4}
    assert batch["retryPolicy"] == {"maxAttempts": 1}
    assert (stream["executionTimeoutMinutes"], batch["executionTimeoutMinutes"]) == (0, 720)
    driver = batch["jobDriver"]["sparkSubmit"]
    assert driver["entryPointArguments"][-1] == "--enqueue"
    given = properties(shlex.split(driver["sparkSubmitParameters"]))
    assert "--conf spark.archives=s3://a/x86_64/dependencies.zip#dependencies " in driver["sparkSubmitParameters"]
    spaced = load_settings({"spark.conf": {"spark.mine": "a b"}}, SETTINGS)
    quoted = serverless.job("reconcile", spaced, PLACES, "arn:role")["jobDriver"]["sparkSubmit"]
    assert "--conf 'spark.mine=a b' " in quoted["sparkSubmitParameters"]
    assert given["spark.archives"] == "s3://a/x86_64/dependencies.zip#dependencies"
    assert given["spark.emr-serverless.driverEnv.AWS_REGION"] == "eu-west-3"
    pythons = {value for key, value in given.items() if key.endswith("_PYTHON")}
    assert pythons == {"python3.11"}  # of driver and workers
    for name in ("dynamicAllocation.initialExecutors", "executor.instances"):
        assert given[f"spark.{name}"] == "0"  # the default of both is 3, which would be paid
    assert given["spark.emr-serverless.driverEnv.LAUNCH_FILES"] == "s3://a/x86_64/emr.yaml"
    given = properties(shlex.split(stream["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"]))
    assert given["spark.dynamicAllocation.minExecutors"] == "1"


@pytest.mark.parametrize("verb", SUBMITTED)
def test_every_job_is_one_that_the_api_takes(verb: str) -> None:
    shape = get_session().get_service_model("emr-serverless").operation_model("StartJobRun").input_shape
    role = "arn:aws:iam::123456789012:role/pictures"
    request = serverless.job(verb, load_settings({}, SETTINGS), PLACES, role)
    validate_parameters({**request, "applicationId": "00abc", "clientToken": "1"}, shape)
    assert set(request) <= set(shape.members)


def test_workers_on_serverless_have_sizes_that_there_are() -> None:
    """https://docs.aws.amazon.com/emr/latest/EMR-Serverless-UserGuide/app-behavior.html#worker-configs."""
    sizes = {2: range(4, 17), 4: range(8, 31)}
    for verb in SUBMITTED:
        job = serverless.job(verb, load_settings({}, SETTINGS), PLACES, "arn:role")
        given = properties(shlex.split(job["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"]))
        for worker, (cores, gigabytes) in {"driver": cost._DRIVER, "executor": cost._EXECUTOR}.items():
            asked = sum(int(given[f"spark.{worker}.{kind}"].removesuffix("g")) for kind in ("memory", "memoryOverhead"))
            assert (int(given[f"spark.{worker}.cores"]), asked) == (cores, gigabytes)
            assert gigabytes in sizes[cores]


@pytest.mark.parametrize("pictures", ["0", "1e6", "50e6"])
def test_the_documented_costs_are_what_the_program_says(pictures: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--pictures", pictures]) == 0
    *tables, source = capsys.readouterr().out.split("\n\n")
    documented = (ROOT / "docs" / "emr.md").read_text(encoding="utf-8")
    sums = [float(table.split()[-1].replace(",", "")) for table in tables]
    [row] = re.findall(rf"^\| {float(pictures):,.0f} \|(.*)\|$", documented, flags=re.MULTILINE)
    assert [float(cell.replace(",", "")) for cell in row.split("|")] == [round(one) for one in sums]
    assert "prices of 2026-11-30" in source
    assert ("a network, to reach the queue" in tables[0]) == (pictures == "50e6")  # where listing costs more
    if pictures == "0":
        for line in tables[0].splitlines():
            assert f"    {line}\n" in documented


def test_what_waits_costs_little(capsys: pytest.CaptureFixture[str]) -> None:
    """USD a month without a picture: by schedules less than 10, always on less than 300."""
    assert main(["cost", "--pictures", "0"]) == 0
    by_schedules, always_on, _, _ = capsys.readouterr().out.split("\n\n")
    assert float(by_schedules.split()[-1]) < 10
    assert float(always_on.split()[-1]) < 300
    for schedule in ("replay, hourly", "refit, weekly", "reconcile, nightly", "export, nightly"):
        assert f"{schedule}: without work" in by_schedules


def test_the_rate_and_the_prices_are_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "--pictures", "1e6"]

    def hours(*more: str) -> float:
        assert main([*words, *more]) == 0
        [found] = re.findall(r"replay: the pictures +([\d.]+) h", capsys.readouterr().out)
        return float(found)

    assert hours("--rate", "8.3") > 9 * hours()
    prices = tmp_path / "prices.yaml"
    prices.write_text("region: eu-central-1\n")
    assert main([*words, "--prices", str(prices)]) == 2
    assert "'serverless_hour' is missing; see conf/emr/prices.yaml" in capsys.readouterr().err
    assert main(["cost", "--pictures", "-1"]) == 2


def test_the_examples_are_what_their_readers_take() -> None:
    dag = ast.parse((ROOT / "docs" / "examples" / "airflow_dag.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(dag) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {"EmrAddStepsOperator", "spark_submit_arguments", "step_of", "locations_of"} <= imported
    workflow = yaml.safe_load((ROOT / "docs" / "examples" / "deploy.yaml").read_text(encoding="utf-8"))
    assert list(workflow["jobs"]) == ["check", "package", "deploy"]
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["deploy"]["permissions"]["id-token"] == "write"


@pytest.mark.parametrize("page", ["docs/emr.md", "docs/examples/deploy.yaml"])
def test_every_documented_command_is_one(page: str) -> None:
    """By the parser itself, which ends the program at an option that there is none of."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for variable in ("${{ matrix.platform }}", "$PLATFORM"):
        text = text.replace(variable, "x86_64")
    commands = re.findall(r"python -m conf\.emr ([^`\n]+)", text)
    assert commands
    for command in commands:
        parser, words = command_line(shlex.split(command, comments=True))
        parser.parse_args(words)


def test_every_suggested_command_names_the_stack_and_the_region() -> None:
    """Without, it would be about the stack of the default name, whose data it may delete. `Stack.command` adds both."""
    folder = ROOT / "conf" / "emr"
    of_all = ("package ", "cost ")  # which are about no stack
    for file in folder.glob("*.py"):
        said = " ".join(re.findall(r"python -m conf\.emr (?!from|import)[^\n]+", file.read_text(encoding="utf-8")))
        for command in said.split("python -m conf.emr ")[1:]:
            assert command.startswith(of_all) or file.name == "permissions.py", f"{file.name}: {command}"
    for file in (folder / name for name in ("data.yaml", "serverless.yaml", "cluster.yaml")):
        text = " ".join(file.read_text(encoding="utf-8").split())
        for command in text.split("python -m conf.emr ")[1:]:
            about = "--stack ${Name} --region ${AWS::Region}"
            assert about in command, f"{file.name}: {command[:80]}"


def test_every_call_to_aws_has_its_permission() -> None:
    """By the names of boto3's methods and paginators in the sources."""
    services = map(
        get_session().get_service_model,
        (
            *("cloudformation", "cloudwatch", "ec2", "emr", "emr-serverless", "iam", "logs", "s3"),
            *("service-quotas", "sts"),
        ),
    )
    methods = {xform_name(name): name for service in services for name in service.operation_names}
    words = {
        getattr(node, "attr", None) or getattr(node, "value", None)
        for file in (ROOT / "conf" / "emr").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Attribute, ast.Constant))
    }
    called = {methods[word] for word in words if word in methods}
    assert {"CreateStack", "AddJobFlowSteps", "FilterLogEvents", "GetJobRun", "ListObjectVersions"} <= called
    assert called <= set(PERMISSIONS)
