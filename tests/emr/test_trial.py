"""The trial of everything on Serverless: that it ends with rows and a bill, and always with nothing left."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.emr import cost, serverless, trial
from conf.emr.__main__ import main
from conf.emr.serverless import Application
from conf.emr.stack import Stack
from conf.errors import SettingsError
from tests.support.aws_account import ABOUT, REGION

HOUR = {"vCPUHour": 1.0, "memoryGBHour": 2.0}
PRICES = cost.read_prices(cost.PRICES)


def try_(*words: str) -> int:
    return main(["try", "--stack", "pictures", "--region", REGION, "--allow-non-eu", "--yes", *words])


@pytest.fixture
def with_backbone(aws: Stack) -> Stack:
    Path("build/emr/aarch64/backbone.tflite").write_bytes(b"flat")
    return aws


@pytest.fixture
def jobs_run(with_backbone: Stack, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Each job is done at once, and a replay writes the rows of what is in the input; returns what was asked for."""
    started: list[dict[str, Any]] = []
    start = Application.start

    def run_it(self: Application, request: dict[str, Any]) -> str:
        started.append(request)
        if request["jobDriver"]["sparkSubmit"]["entryPointArguments"][1] == "replay":
            s3, names = self.stack.client("s3"), self.stack.buckets()
            there = s3.list_objects_v2(Bucket=names["input"], Prefix="pictures/")["KeyCount"]
            body = io.BytesIO()
            pq.write_table(pa.table({"path": ["a"] * there}), body)
            s3.put_object(Bucket=names["output"], Key="table/features/date=2026-11-30/1.parquet", Body=body.getvalue())
        return start(self, request)

    monkeypatch.setattr(Application, "start", run_it)
    monkeypatch.setattr(Application, "run", lambda *_: {"state": "SUCCESS", "billedResourceUtilization": HOUR})
    return started


def test_a_trial_ends_with_rows_and_a_bill_and_leaves_nothing(
    with_backbone: Stack, jobs_run: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert try_() == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    spent = 2 * cost.serverless_usd(HOUR["vCPUHour"], HOUR["memoryGBHour"], PRICES)
    assert re.search(rf"100 rows in \d+ min; the jobs were billed {spent:.2f} USD", out)
    assert [one["jobDriver"]["sparkSubmit"]["entryPointArguments"][1] for one in jobs_run] == ["fit", "replay"]
    assert with_backbone.describe() is None
    assert with_backbone.sibling("serverless").describe() is None
    assert with_backbone.client("s3").list_buckets()["Buckets"] == []


def test_a_job_may_take_no_longer_than_what_is_left_pays_for(
    with_backbone: Stack, jobs_run: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Even with all that the application may have at once."""
    assert try_("--max-usd", "0.3") == 0, capsys.readouterr().err
    an_hour = cost.serverless_usd(trial._VCPUS, trial._GIGABYTES, PRICES)
    of_a_job = cost.serverless_usd(HOUR["vCPUHour"], HOUR["memoryGBHour"], PRICES)
    limits = [one["executionTimeoutMinutes"] for one in jobs_run]
    assert limits == [int(0.3 / an_hour * 60), int((0.3 - of_a_job) / an_hour * 60)]


def test_a_trial_that_fails_leaves_nothing_either(
    with_backbone: Stack,
    jobs_run: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Application, "run", lambda *_: {"state": "FAILED", "stateDetails": "exit code 3"})
    assert try_() == 1
    err = capsys.readouterr().err
    assert "is FAILED: exit code 3" in err
    assert re.search(r"the jobs cost \d\.\d\d USD by prices\.yaml; everything is taken down now", err)
    assert with_backbone.describe() is None
    assert with_backbone.client("s3").list_buckets()["Buckets"] == []


def test_a_job_of_which_emr_tells_no_bill_is_counted_with_all_it_may_have_had() -> None:
    bill = trial._Bill(1.0, PRICES)
    bill.add({"state": "SUCCESS"}, 1800)
    assert bill.spent == pytest.approx(cost.serverless_usd(trial._VCPUS, trial._GIGABYTES, PRICES) / 2)
    bill.add({"totalResourceUtilization": HOUR}, 1800)
    assert bill.spent > 0.3


def test_money_that_is_used_up_stops_it(with_backbone: Stack, jobs_run: list[dict[str, Any]]) -> None:
    assert try_("--max-usd", "0.1") == 2
    assert len(jobs_run) == 1
    assert with_backbone.describe() is None


def test_what_is_there_already_is_left_alone(with_backbone: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--stack", "pictures", "--region", REGION, "--allow-non-eu", "--yes"]
    assert main(["deploy", *words]) == 0
    assert try_() == 2
    assert (
        f"'pictures' is there already; python -m conf.emr destroy {ABOUT} --data deletes it, or give"
        in capsys.readouterr().err
    )
    assert with_backbone.describe() is not None


def test_nothing_is_made_where_it_could_not_end(aws: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert try_() == 2
    assert "backbone.tflite is missing; python -m batch_fit convert" in capsys.readouterr().err
    assert try_("--max-usd", "0.01") == 2
    assert "--max-usd: 0.01 is not enough for the next job; give 0.05 or more" in capsys.readouterr().err
    assert aws.describe() is None


def test_a_bill_without_end_is_still_an_end() -> None:
    assert trial._Bill(1000.0, PRICES).minutes() == serverless.BATCH_MINUTES
    with pytest.raises(SettingsError, match="--max-usd"):
        trial._Bill(1.0, PRICES, spent=1.0).minutes()
