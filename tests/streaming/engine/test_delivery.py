"""Metrics that the driver sends to CloudWatch itself: all of them arrive, and no failure is in anybody's way."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conf.aws.connection import S3Connection, forget_clients
from conf.loading import load_settings
from streaming.engine import delivery
from streaming.engine.delivery import Delivery, batches, stream_name
from streaming.engine.metrics import open_metrics
from streaming.output.batch_report import BatchReport
from tests.support.refusals import hanging, refusing
from tests.support.servers import CREDENTIALS

Wait = Callable[[Callable[[], bool]], None]
OUTPUT = "s3://bucket/table"
GROUP = "/picture-features/test"
REPORT = BatchReport("m", 10, Counter(corrupt=2), 1.5, 4.25, "v", 0.07)
NOW = 1_800_000_000_000


def _reach(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": address}.items():
        monkeypatch.setenv(name, value)
    forget_clients()


@pytest.fixture
def group(moto_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A log group."""
    monkeypatch.setattr(delivery, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(delivery, "_REQUEST_SECONDS", 60)  # on a busy machine an answer may take more than usual
    monkeypatch.setattr(delivery, "_FLUSH_SECONDS", 60)
    _reach(moto_address, monkeypatch)
    logs = S3Connection().client("logs")
    logs.create_log_group(logGroupName=GROUP)
    yield GROUP
    _reach(moto_address, monkeypatch)
    S3Connection().client("logs").delete_log_group(logGroupName=GROUP)
    forget_clients()


def _document(number: int, timestamp: int = 0) -> dict[str, Any]:
    return {"_aws": {"Timestamp": timestamp or time.time_ns() // 1_000_000}, "number": number}


def _sent(stream: str = "") -> list[dict[str, Any]]:
    """The documents in a log stream, in their order."""
    logs = S3Connection().client("logs")
    events = logs.get_log_events(
        logGroupName=GROUP, logStreamName=stream or stream_name(OUTPUT), startFromHead=True, limit=10_000
    )["events"]
    return [json.loads(event["message"]) for event in events]


def test_the_metrics_of_run_and_replay_go_to_the_log_group(group: str) -> None:
    """As documents of their own, in a stream that names host, process and output; the line of the log has none."""
    settings = load_settings({"output": OUTPUT, "log.metrics": "emf", "log.metrics_group": group})
    with open_metrics(settings) as metrics:
        assert metrics.tell(REPORT) == {}
    [document] = _sent()
    assert (document["Pictures"], document["output"], document["Drift"]) == (10, OUTPUT, 0.07)
    assert document["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "picture-features"
    assert stream_name(OUTPUT).endswith("/s3_//bucket/table")
    with open_metrics(settings) as metrics:  # the stream is there already
        metrics.tell(REPORT)
    assert len(_sent()) == 2


def test_without_a_group_or_metrics_nothing_changes(tmp_path: Path) -> None:
    """They are fields of the log line, or nothing."""
    in_log = load_settings({"output": str(tmp_path), "log.metrics": "emf"})
    with open_metrics(in_log) as metrics:
        assert metrics.tell(REPORT)["Pictures"] == 10
    none = load_settings({"output": str(tmp_path), "log.metrics_group": "group"})
    with open_metrics(none) as metrics:
        assert metrics.tell(REPORT) == {}


def test_all_arrive_in_the_order_of_time(group: str) -> None:
    """Whatever the order in which they were told."""
    with Delivery(group, OUTPUT, S3Connection()) as sender:
        now = time.time_ns() // 1_000_000
        for number in (2, 0, 3, 1):
            sender.send(_document(number, now + number))
    assert [document["number"] for document in _sent()] == [0, 1, 2, 3]


def test_a_batch_is_what_a_request_may_have() -> None:
    """1 MB with 26 bytes for each event, 10,000 events, less than 24 hours, in order; nothing is lost between two."""
    day = 24 * 3600 * 1000

    def of(*events: tuple[int, str]) -> list[int]:
        given: list[dict[str, Any]] = [{"timestamp": at, "message": message} for at, message in events]
        cut = list(batches(given))
        assert [one for batch in cut for one in batch] == sorted(given, key=lambda one: one["timestamp"])
        return [len(batch) for batch in cut]

    assert of() == []
    assert of(*((NOW + number, "x") for number in range(20_001))) == [10_000, 10_000, 1]
    large = "é" * ((1_048_576 // 4 - 26) // 2)
    assert of(*((NOW, large) for _ in range(5))) == [4, 1]
    assert of((NOW, large), (NOW, large), (NOW, large), (NOW, large + "x")) == [3, 1]
    assert of((NOW + day, "x"), (NOW, "x"), (NOW + day - 1, "x")) == [2, 1]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_service_that_refuses_is_one_warning_and_one_line_when_it_is_over(
    group: str, moto_address: str, wait_for: Wait, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told meanwhile is dropped and counted; what is told later arrives."""
    caplog.set_level(logging.INFO)
    with Delivery(group, OUTPUT, S3Connection()) as sender:
        with refusing("AccessDeniedException", 400) as address:
            _reach(address, monkeypatch)
            for number in range(3):
                sender.send(_document(number))
                wait_for(lambda so_far=number + 1: sender._dropped == so_far)  # type: ignore[misc]
        _reach(moto_address, monkeypatch)
        sender.send(_document(3))
        wait_for(lambda: "takes metrics again" in caplog.text)
    [warning] = _warnings(caplog)
    assert warning.startswith(
        f"metrics are dropped until log group {GROUP} takes them: An error occurred (AccessDenied"
    )
    assert f"log group {GROUP} takes metrics again; 3 were dropped" in caplog.text
    assert [document["number"] for document in _sent()] == [3]


def test_a_log_stream_that_was_deleted_is_made_again(group: str, wait_for: Wait) -> None:
    """By the batch after the one that finds it gone."""
    with Delivery(group, OUTPUT, S3Connection()) as sender:
        sender.send(_document(0))
        wait_for(lambda: sender._has_stream and sender._queue.empty() and len(_sent()) == 1)
        S3Connection().client("logs").delete_log_stream(logGroupName=GROUP, logStreamName=stream_name(OUTPUT))
        sender.send(_document(1))
        wait_for(lambda: sender._dropped == 1)
        sender.send(_document(2))
    assert [document["number"] for document in _sent()] == [2]


def test_a_service_that_hangs_is_in_nobodys_way(
    group: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Telling takes no time, the queue is bounded, and the end is waited for within bounds."""
    monkeypatch.setattr(delivery, "_QUEUED", 100)
    monkeypatch.setattr(delivery, "_REQUEST_SECONDS", 5)
    monkeypatch.setattr(delivery, "_FLUSH_SECONDS", 0.5)
    with hanging() as address:
        _reach(address, monkeypatch)
        began = time.monotonic()
        with Delivery(group, OUTPUT, S3Connection()) as sender:
            for number in range(5000):
                sender.send(_document(number))
            told = time.monotonic() - began
            assert sender._queue.qsize() <= 100
        ended = time.monotonic() - began
    assert told < 10
    assert ended < 30
    dropped, unsent = _warnings(caplog)
    assert dropped == f"metrics are dropped until log group {GROUP} takes them: 100 documents are waiting to be sent"
    assert unsent == f"the last metrics were not sent: log group {GROUP} does not answer"


def test_documents_that_are_refused_by_their_time_are_counted(
    group: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service takes the others of the request."""

    def answer(_self: Delivery, batch: list[Any]) -> dict[str, Any]:
        assert len(batch) == 10
        return {"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": 2, "tooNewLogEventStartIndex": 9}}

    monkeypatch.setattr(Delivery, "_put", answer)
    monkeypatch.setattr(delivery, "_PAUSE_SECONDS", 60)
    with Delivery(group, OUTPUT, S3Connection()) as sender:
        for number in range(10):
            sender.send(_document(number))
    assert sender._dropped == 3
    assert "is the clock of this machine right?" in caplog.text
