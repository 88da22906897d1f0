"""The packaged application on a real YARN: two at once, killed, resumed, drained. `make test-yarn` runs it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from conf.emr.package import Package
from conf.emr.spark_submit import CONFIG, LAUNCHER, LOG4J, Locations, spark_submit_arguments
from conf.loading import load_settings
from streaming.__main__ import main
from streaming.lease.holder import read_holder
from streaming.storage.locations import open_folder
from tests.support.buckets import new_bucket
from tests.support.servers import CREDENTIALS
from tests.support.streams import PROJECT
from tests.support.yarn_cluster import Yarn, yarn

pytestmark = [pytest.mark.yarn, pytest.mark.timeout(2400)]
CONF = PROJECT / "conf"
PATIENCE = 300  # seconds; all of it takes less than half as long on two idle cores
SELDOM = 0.5  # each look reads the whole table, on cores that the cluster needs
Wait = Callable[..., None]


def _application(package: Package) -> str:
    """Puts beside the archives what is uploaded with them."""
    folder = package.code.parent
    for file in (CONF / CONFIG, CONF / "emr" / LAUNCHER, CONF / "emr" / LOG4J):
        shutil.copy(file, folder)
    return folder.as_uri()


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.1f} MB"


def is_running(cluster: Yarn, verb: str) -> bool:
    try:
        return bool(cluster.application(verb)["state"] == "RUNNING")
    except ValueError:  # it is not known yet
        return False


def test_a_killed_master_loses_and_repeats_nothing(
    package: Package,
    yarn_jars: Future[list[str]],
    node_python: str,
    versitygw_address: str,
    fitted: Path,
    pictures: list[Path],
    broken: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_for: Wait,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rows arrive, a step runs beside the stream, whose master is killed, resumes, and ends by a drain as a success."""
    with new_bucket(versitygw_address, monkeypatch) as bucket:
        bucket.put_tree(fitted, "models")
        paths = bucket.put(pictures[:10]) + bucket.put(broken, "broken")
        places = {place: bucket.uri(place) for place in ("input", "models", "output")}
        region = CREDENTIALS["AWS_REGION"]
        locations = Locations(application=_application(package), region=region, python=node_python, **places)
        settings = load_settings({}, CONF / CONFIG)
        more = ["--interval", "1s", "--max-pictures", "8"]
        keys = {name: key for name, key in CREDENTIALS.items() if name != "AWS_REGION"}  # that submit has to tell
        of_containers = {**keys, "AWS_ENDPOINT_URL": versitygw_address}
        with yarn(tmp_path / "yarn", yarn_jars.result(), of_containers) as cluster:
            began = time.monotonic()
            submitted = cluster.submit(spark_submit_arguments("run", settings, locations, more))

            def arrived(rows: int) -> bool:
                assert submitted.poll() is None, cluster.said()
                return bucket.committed() > 0 and bucket.counted().total() >= rows

            wait_for(lambda: arrived(1), PATIENCE, SELDOM)
            seconds_to_first_row = time.monotonic() - began
            beside = time.monotonic()
            step = cluster.submit(spark_submit_arguments("reconcile", settings, locations, ["--enqueue"]))
            wait_for(lambda: is_running(cluster, "reconcile"), PATIENCE, SELDOM, cluster.said)
            seconds_to_second_master = time.monotonic() - beside
            assert is_running(cluster, "run")
            assert cluster.masters_labels() == {"CORE"}
            assert step.wait(timeout=PATIENCE) == 0, cluster.said()
            assert cluster.application("reconcile")["finalStatus"] == "SUCCEEDED"
            paths += bucket.put(pictures[10:50])
            wait_for(lambda: arrived(20), PATIENCE, SELDOM)
            cluster.kill_master("run")
            killed = time.monotonic()
            left = len(paths) - bucket.counted().total()
            assert left > 0
            wait_for(lambda: arrived(len(paths)), PATIENCE, SELDOM)
            seconds_to_resume = time.monotonic() - killed
            assert bucket.counted() == dict.fromkeys(paths, 1)
            assert cluster.attempts("run") == 2
            holder, _ = read_holder(open_folder(bucket.uri("output")))
            assert holder
            assert str(holder.attempt) == f"attempt 2 of {cluster.application('run')['id']}"

            assert main(["stop", "--output", bucket.uri("output")]) == 0
            assert submitted.wait(timeout=PATIENCE) == 0, cluster.said()
            assert cluster.application("run")["finalStatus"] == "SUCCEEDED"
            assert bucket.counted() == dict.fromkeys(paths, 1)
        assert cluster.processes() == []
    with capsys.disabled():
        sys.stdout.write(
            f"\nsubmit to first row {seconds_to_first_row:.0f} s; a second master beside it after "
            f"{seconds_to_second_master:.0f} s; {left} pictures left when the master was killed, "
            f"all in {seconds_to_resume:.0f} s later; dependencies {_megabytes(package.dependencies)}, "
            f"code {_megabytes(package.code)}\n"
        )
