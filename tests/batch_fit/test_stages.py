"""Stages of a fit, of which each may take a while."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from batch_fit.stages import Stages


def test_a_stage_is_named_as_it_begins_and_timed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that names itself is only timed."""
    monkeypatch.setattr("batch_fit.stages.time", Mock(monotonic=Mock(side_effect=[1.0, 3.0, 3.0, 7.0])))
    stages = Stages()
    with caplog.at_level("INFO", "batch_fit"):
        with stages("saving the model"):
            assert [one.getMessage() for one in caplog.records] == ["saving the model"]
        with stages.timed("starting Spark"):
            pass
        assert [one.getMessage() for one in caplog.records] == ["saving the model"]
    assert stages.seconds == {"saving the model": 2.0, "starting Spark": 4.0}
