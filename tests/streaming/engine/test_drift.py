"""Drift: loud for pictures of another kind, quiet for more of the same, and never loud for a handful."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from batch_fit.held_back import Evidence, HeldBack, is_held_back
from batch_fit.pca import fit_pca
from batch_fit.statistics import Statistics
from streaming.__main__ import main
from streaming.engine.drift import DriftMonitor
from streaming.features.backbone import BackboneRunner
from streaming.features.imaging import Limits, decode
from streaming.output.batch_report import BatchReport, read_batch_report
from streaming.registry.bundle import HeldBackFigures
from streaming.storage.folder import identity_of
from streaming.storage.parquet import footer_of
from tests.support.data import shared_data
from tests.support.streams import Place

FITTED = HeldBackFigures(pictures=200, variance_kept=0.8, error_p50=50.0, error_p95=95.0)


def errors(*values: float, times: int = 1) -> NDArray[np.float32]:
    return np.array(values * times, np.float32)


def observe(
    monitor: DriftMonitor, version: str, fitted: HeldBackFigures | None, batch: NDArray[np.float32]
) -> float | None:
    """What a committed micro-batch does."""
    window = monitor.look(version, fitted, batch)
    monitor.keep(window)
    return window.drift


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_the_same_kind_stays_near_a_twentieth(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the sizes of the micro-batches."""
    chance, monitor = np.random.default_rng(0), DriftMonitor(0.2, "refit")
    for _ in range(500):
        batch = chance.uniform(0, 100, chance.integers(1, 50)).astype(np.float32)
        drift = observe(monitor, "one", FITTED, batch)
        assert drift is not None
        assert 0.02 < drift < 0.1
    assert not warnings(caplog)


def test_a_few_odd_pictures_raise_no_alarm_and_many_do_once(caplog: pytest.LogCaptureFixture) -> None:
    """Once per crossing: not again while it lasts, and again when it comes back."""
    monitor = DriftMonitor(0.2, "python -m batch_fit fit --input in --models models")
    assert observe(monitor, "one", FITTED, errors(1e6)) == pytest.approx(6 / 101)
    observe(monitor, "one", FITTED, errors(1e6, times=10))
    assert not warnings(caplog)
    for _ in range(3):
        observe(monitor, "one", FITTED, errors(1e6, times=20))
    [told] = warnings(caplog)
    assert "drift 0.27" in told
    assert "than 95% of those that its fit held out" in told
    assert "python -m batch_fit fit --input in --models models --from one" in told
    assert observe(monitor, "one", FITTED, errors(1, times=1000)) == 0
    assert observe(monitor, "one", FITTED, errors(1e6, times=500)) == 0.5
    assert len(warnings(caplog)) == 2


def test_a_micro_batch_that_is_tried_again_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    """It may fail between its report and its commit, as often as the store does."""
    monitor = DriftMonitor(0.2, "refit")
    tries = {monitor.look("one", FITTED, errors(1e6, times=100)).drift for _ in range(5)}
    assert tries == {105 / 200}
    assert not warnings(caplog)


def test_the_threshold_is_the_users(caplog: pytest.LogCaptureFixture) -> None:
    """A lower one warns sooner, and 1 never."""
    for threshold, told in ((0.06, 1), (0.2, 0), (1.0, 0)):
        caplog.clear()
        observe(DriftMonitor(threshold, "refit"), "one", FITTED, errors(1e6, times=5))
        assert len(warnings(caplog)) == told
    observe(DriftMonitor(1.0, "refit"), "one", FITTED, errors(1e6, times=5000))
    assert not warnings(caplog)


def test_another_model_starts_another_window() -> None:
    """Errors under one model say nothing about another."""
    monitor = DriftMonitor(0.2, "refit")
    observe(monitor, "one", FITTED, errors(1e6, times=1000))
    assert observe(monitor, "two", FITTED, errors(1)) == pytest.approx(5 / 101)


@pytest.mark.parametrize("fitted", [None, FITTED.model_copy(update={"pictures": 99})])
def test_a_model_of_few_pictures_tells_no_drift_and_fills_no_log_with_that(
    caplog: pytest.LogCaptureFixture, fitted: HeldBackFigures | None
) -> None:
    """The answer of the fit, and `status`, say that drift is unavailable."""
    caplog.set_level(logging.INFO)
    monitor = DriftMonitor(0.2, "refit")
    for _ in range(3):
        assert observe(monitor, "one", fitted, errors(1e6, times=500)) is None
    assert not caplog.records


def test_a_replay_of_a_few_pictures_goes_on_from_those_before(caplog: pytest.LogCaptureFixture) -> None:
    """Each is a process of its own: without that, no number of replays of 18 odd pictures would ever tell."""
    table = errors()
    for replay in range(3):
        monitor = DriftMonitor(0.2, "refit")
        monitor.recall("one", FITTED, table)
        drift = observe(monitor, "one", FITTED, errors(1e6, times=18))
        assert drift == pytest.approx((5 + 18 * (replay + 1)) / (100 + 18 * (replay + 1)))
        table = np.append(table, errors(1e6, times=18))
    assert len(warnings(caplog)) == 2  # once in each process that sees it
    monitor = DriftMonitor(0.2, "refit")
    monitor.recall("one", FITTED, table)
    assert observe(monitor, "two", FITTED, errors(1)) == pytest.approx(5 / 101)
    monitor.recall("one", None, errors())  # nothing was held back
    assert observe(monitor, "one", None, errors(1)) is None


def test_a_micro_batch_without_features_changes_nothing() -> None:
    """All of it may be quarantined."""
    monitor = DriftMonitor(0.2, "refit")
    before = observe(monitor, "one", FITTED, errors(1e6))
    assert observe(monitor, "one", FITTED, errors()) == before


def test_photographs_of_anything_are_drift_for_a_model_of_fruit_and_more_fruit_is_not(
    backbone: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """On real pictures, in the worst order: class by class, each odd one for itself. benchmarks/drift.py has more."""
    runner, limits = BackboneRunner(backbone), Limits(max_bytes=2**26, max_pixels=50_000_000)

    def featurize(files: list[Path]) -> dict[bytes, NDArray[np.float32]]:
        return {
            identity_of(f"/{file.parent.name}/{file.name}"): runner.run(decode(file.read_bytes(), limits).pixels)
            for file in files
        }

    fruit = sorted((shared_data() / "fruits360").rglob("*.jpg"))
    fitted = featurize([file for number, file in enumerate(fruit) if number % 6 < 4])
    held_back = {identity: features for identity, features in fitted.items() if is_held_back(identity)}
    others = np.array([features for identity, features in fitted.items() if identity not in held_back])
    evidence = Evidence(Statistics.of(others), HeldBack.of(held_back))
    projection = fit_pca(evidence.statistics, None, 0.9)
    figures = evidence.figures(projection.k)

    def highest(pictures: dict[bytes, NDArray[np.float32]]) -> float:
        monitor = DriftMonitor(0.2, "refit")
        return max(observe(monitor, "one", figures, errors(projection.apply(one)[1])) or 0 for one in pictures.values())

    assert highest(featurize(fruit[4::6])) < 0.2
    assert not warnings(caplog)
    assert highest(featurize(sorted((shared_data() / "camera").rglob("*.jpg")))) > 0.2
    assert len(warnings(caplog)) == 1


def test_the_stream_warns_and_the_table_tells(
    place: Place, pictures: list[Path], broken: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The footer of each features file has what its micro-batch did, in its last bytes, drift included."""
    version = place.promote_another(1, held_back=FITTED.model_copy(update={"error_p95": 0.0}))
    place.put(*pictures, *broken)
    assert main(place.arguments("replay", "--max-pictures", "16")) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "drift" in line]
    assert len(warned) == 1
    assert f"fit --embeddings {place.output} --models {place.models} --from {version}" in warned[0]
    files = sorted((place.output / "features").glob("date=*/2*.parquet"))
    reports: list[BatchReport] = []
    for file in files:
        report = read_batch_report(footer_of(file.read_bytes()))
        assert report is not None
        assert (report.manifest, report.model_version) == (file.stem, version)
        assert 0 < report.seconds <= report.seconds_behind
        reports.append(report)
    assert sum(report.pictures for report in reports) == 64
    assert sum((report.quarantined for report in reports), Counter()).total() == 4
    # Spark takes manifests of the same millisecond in any order, so the last micro-batch need not be the last file.
    assert max(report.drift or 0 for report in reports) == pytest.approx(65 / 160)
    [empty] = (place.output / "features").glob("date=*/empty.parquet")
    assert read_batch_report(footer_of(empty.read_bytes())) is None
