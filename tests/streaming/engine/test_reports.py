"""The reports of micro-batches: each is told once, also where the store fails behind the deciding write."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from streaming.engine.microbatch import Reports
from streaming.output.batch_report import BatchReport

_REPORT = BatchReport("a", 10, Counter(corrupt=2), 1.5, 4.25, "v", None)


def test_a_report_that_was_kept_is_told_once() -> None:
    """By whoever finds the manifest decided; never of one that another process has decided."""
    told: list[BatchReport] = []
    reports = Reports(told.append)
    reports.keep(_REPORT)  # then the store failed
    reports.tell_kept("another")
    reports.tell_kept("a")
    reports.tell_kept("a")
    assert told == [_REPORT]
    reports.keep(_REPORT)
    reports.drop("a")
    reports.tell_kept("a")
    assert told == [_REPORT]


def test_a_report_that_was_told_is_not_kept() -> None:
    """The one that is told has the time that the writing took."""
    told: list[BatchReport] = []
    reports = Reports(told.append)
    reports.keep(_REPORT)
    reports.tell(replace(_REPORT, seconds=2.0))
    reports.tell_kept("a")
    assert [one.seconds for one in told] == [2.0]
