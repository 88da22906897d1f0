"""Stages of a fit, of which each may take a while."""

from __future__ import annotations

import time

import pytest

from batch_fit.stages import Stages


def test_a_stage_is_named_as_it_begins_and_timed(caplog: pytest.LogCaptureFixture) -> None:
    """One that names itself is only timed."""
    stages = Stages()
    with caplog.at_level("INFO", "batch_fit"):
        with stages("saving the model"):
            assert [one.getMessage() for one in caplog.records] == ["saving the model"]
            time.sleep(0.01)
        with stages.timed("starting Spark"):
            pass
        assert [one.getMessage() for one in caplog.records] == ["saving the model"]
    assert stages.seconds["saving the model"] >= 0.01 > stages.seconds["starting Spark"]
