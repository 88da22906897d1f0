"""Fixtures that several test files share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.session import start_session
from conf.settings import load_settings


@pytest.fixture(autouse=True)
def _logs_of_this_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the programs' log files out of the home of whoever runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Waits until a condition holds, and fails if it does not within a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < give_up, "waited in vain"
            threading.Event().wait(0.02)

    return wait


@pytest.fixture
def spark(tmp_path: Path) -> Iterator[SparkSession]:
    """A real Spark session, made as the programs make theirs; the JVM beneath it is shared by all tests."""
    settings = load_settings({"spark.master": "local[2,4]", "log.folder": str(tmp_path)})
    session = start_session("tests", settings, {})
    yield session
    session.stop()
