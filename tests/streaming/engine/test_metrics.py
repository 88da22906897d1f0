"""Metrics in CloudWatch's embedded metric format: what its specification asks of a line of the log."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conf.logs import logging_to
from conf.settings import LogSettings
from streaming.engine.metrics import HEARTBEAT_SECONDS, Heartbeat, of_batch
from streaming.output.batch_report import BatchReport

REPORT = BatchReport("m", 10, Counter(corrupt=2, empty=1), 1.5, 4.25, "v", 0.07)
OUTPUT = "s3://bucket/table"

# The units of MetricDatum in CloudWatch's API that are of use here.
UNITS = {"Seconds", "Count", "None"}


def check(line: dict[str, Any]) -> dict[str, float]:
    """Hold a line against the specification; returns its metrics."""
    metadata = line["_aws"]
    assert set(metadata) == {"Timestamp", "CloudWatchMetrics"}
    assert isinstance(metadata["Timestamp"], int)
    assert abs(metadata["Timestamp"] / 1000 - time.time()) < 60
    [directive] = metadata["CloudWatchMetrics"]
    assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
    assert 1 <= len(directive["Namespace"]) <= 1024
    [dimensions] = directive["Dimensions"]
    assert all(isinstance(line[name], str) and 1 <= len(line[name]) <= 1024 for name in dimensions)
    values = {}
    for metric in directive["Metrics"]:
        assert set(metric) == {"Name", "Unit"}
        assert metric["Unit"] in UNITS
        value = line[metric["Name"]]  # each is a member of the root
        assert isinstance(value, int | float)
        values[metric["Name"]] = value
    assert len(values) == len(directive["Metrics"]) <= 100
    return values


def test_the_metrics_of_a_micro_batch() -> None:
    """Under the output's name; without drift where the model cannot tell."""
    line = of_batch(REPORT, OUTPUT)
    expected = {"Pictures": 10, "Quarantined": 3, "SecondsBehind": 4.25, "BatchSeconds": 1.5, "ModelRefused": 0}
    assert check(line) == {**expected, "Drift": 0.07}
    assert (line["_aws"]["CloudWatchMetrics"][0]["Namespace"], line["output"]) == ("picture-features", OUTPUT)
    assert check(of_batch(BatchReport("m", 10, REPORT.quarantined, 1.5, 4.25, "v", None), OUTPUT)) == expected


def test_a_line_of_the_log_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing stands before or after the JSON object."""
    with logging_to(LogSettings(format="json", folder=tmp_path), "stream"):
        logging.getLogger("streaming").info("10 pictures", extra={"data": of_batch(REPORT, OUTPUT)})
    [line] = capsys.readouterr().err.splitlines()
    assert check(json.loads(line))["Pictures"] == 10


def test_an_idle_stream_says_once_a_minute_that_it_lives() -> None:
    """Counted from the last micro-batch; one that is running for long is not idle time."""
    told: list[Any] = []
    now = 0.0
    heartbeat = Heartbeat(OUTPUT, told.append, lambda: now)

    def beats(seconds: int, *, busy: bool) -> int:
        nonlocal now
        told.clear()
        for _ in range(seconds):
            now += 1
            heartbeat.look(busy)
        return len(told)

    assert beats(int(HEARTBEAT_SECONDS) - 1, busy=False) == 0
    assert beats(600, busy=True) == 0
    assert beats(int(HEARTBEAT_SECONDS) - 1, busy=False) == 0
    assert beats(541, busy=False) == 10
    assert check(told[0]) == {"Pictures": 0, "SecondsBehind": 0}
