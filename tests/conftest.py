"""Fixtures that several test files share."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import hypothesis
import pytest
from pyspark.sql import SparkSession

from batch_fit.backbone import load_backbone
from conf.aws.credentials import serve_credentials
from conf.emr.package import Package, Platform, build
from conf.loading import load_settings
from conf.spark import java_process
from conf.spark import jvm as java_environment
from conf.spark.session import start_session
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support import streams
from tests.support.buckets import Bucket, new_bucket
from tests.support.models import promote_model
from tests.support.samples import write_samples
from tests.support.servers import moto, versitygw
from tests.support.streams import Place
from tests.support.waiting import locked, wait_until
from tests.support.yarn_cluster import fetch_yarn

_NEEDS = {
    "spark": {"jvm", "tensorflow"},
    "store": {"store", "versitygw_address", "moto_address"},
    "programs": {"programs", "packages"},
}
"""Marks, and the fixtures that say of a test that it needs what a mark stands for."""


hypothesis.settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same")
"""Each run draws the same examples, however slow the machine; --hypothesis-profile default draws others."""

_SLOWEST_FIRST = ("programs", "spark", "store")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by what they need; `make test-fast` runs those that need nothing.

    Each worker begins with slow tests and ends with fast ones, which even out what is left in the end.
    """
    for item in items:
        fixtures = {*getattr(item, "fixturenames", ())}
        for mark, names in _NEEDS.items():
            if fixtures & names:
                item.add_marker(mark)
    items.sort(key=_turn)
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    runs: list[list[pytest.Item]] = [[] for _ in range(workers)]  # they get one each
    for _, of_file in groupby(items, lambda item: (_turn(item), item.path)):  # with which they share fixtures
        min(runs, key=len).extend(of_file)
    items[:] = [item for run in runs for item in run]


def _turn(item: pytest.Item) -> int:
    """Slow tests before fast ones; pytest's own order decides between equals."""
    marks = [item.get_closest_marker(mark) is not None for mark in _SLOWEST_FIRST]
    return marks.index(True) if True in marks else len(marks)


@pytest.fixture(autouse=True)
def _needs_no_more_than_is_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("this test needs the fixture `jvm`, which has it marked")

    if not request.node.get_closest_marker("spark"):
        monkeypatch.setattr(java_process, "start", refuse)
    if not request.node.get_closest_marker("programs"):
        monkeypatch.setattr(streams, "_started", None)


@pytest.fixture(scope="session", autouse=True)
def _java_serves_all_tests() -> Iterator[None]:
    """The JVM of the tests is started with what S3 takes, and without the properties of the session that came first.

    What it is started with stays for all its sessions. For the whole session of pytest, as a fixture of a module may
    start it.
    """
    environment, start = java_environment.environment, java_process.start

    def start_plain(options: Mapping[str, str], *more: Any) -> Any:
        plain = {key: value for key, value in options.items() if not key.startswith(("spark.sql.", "spark.hadoop."))}
        return start(plain, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(java_environment, "environment", lambda: {**environment(), **serve_credentials()})
        patch.setattr(java_process, "start", start_plain)
        yield


@pytest.fixture
def jvm() -> None:
    """Spark in this process; all tests that it runs share one JVM."""


@pytest.fixture
def programs() -> Iterator[None]:
    """Whole programs, as processes of their own."""
    yield
    streams.kill_started()


@pytest.fixture(autouse=True)
def _home_of_this_test(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, all_workers: Path
) -> None:
    """Keeps the programs' files out of the home of whoever runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(all_workers / "cache"))


@pytest.fixture(scope="session")
def all_workers(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that the workers of this run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An empty input."""
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    """An output to be made."""
    return open_folder(str(tmp_path / "out"))


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    """Waits until a condition holds, gives what it gave, and fails if it does not within so many seconds."""
    return wait_until


@pytest.fixture
def new_session(tmp_path: Path, jvm: None) -> Iterator[Callable[[], SparkSession]]:
    """Makes a real Spark session as the programs make theirs; the JVM beneath it is shared by all tests."""
    settings = load_settings({"spark.master": "local[2,4]", "log.folder": str(tmp_path)})
    sessions: list[SparkSession] = []

    def start() -> SparkSession:
        sessions.append(start_session("tests", settings, {}))
        return sessions[-1]

    yield start
    for session in sessions:
        session.stop()


@pytest.fixture
def spark(new_session: Callable[[], SparkSession]) -> SparkSession:
    """One that is there from the beginning of the test."""
    return new_session()


@pytest.fixture(scope="session")
def tensorflow() -> None:
    """Conversions of a backbone, each of which takes 10 s."""


@pytest.fixture(scope="session")
def backbone(all_workers: Path, tensorflow: None) -> bytes:
    """MobileNetV2 with random weights as a LiteRT flatbuffer, which takes TensorFlow to make: once for all workers."""
    with locked(all_workers / "backbone.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(all_workers / "cache"))
        return load_backbone("random:0").flatbuffer


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory, backbone: bytes) -> Path:
    """A registry with one model, made without Spark; tests work on copies of it."""
    models = tmp_path_factory.mktemp("fitted") / "models"
    promote_model(models, backbone, k=8, seed=0)
    return models


@pytest.fixture
def place(tmp_path: Path, fitted: Path) -> Place:
    """An empty input, a model, and an output to be made."""
    place = Place(tmp_path / "place")
    place.source.mkdir(parents=True)
    shutil.copytree(fitted, place.models)
    return place


@pytest.fixture(scope="session")
def moto_address() -> Iterator[str]:
    """An S3, and an SQS, of one process; each test has buckets and queues of its own."""
    with moto() as address:
        yield address


@pytest.fixture(scope="session")
def versitygw_address() -> Iterator[str]:
    """An S3 that keeps its objects in a folder."""
    with versitygw() as address:
        yield address


@pytest.fixture(params=["moto", "versitygw"])
def store(request: pytest.FixtureRequest) -> str:
    """The address of each of the S3 servers in turn."""
    return str(request.getfixturevalue(f"{request.param}_address"))


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket; the standard AWS environment says where it is, and no setting of ours."""
    with new_bucket(store, monkeypatch) as made:
        yield made


@pytest.fixture(scope="session")
def yarn_jars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[list[str]]]:
    """What `yarn_cluster.yarn` needs; it comes while other tests run."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit(fetch_yarn, tmp_path_factory.mktemp("yarn") / "ivy.log")


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Package]]]:
    """What a cluster of machines like this one gets, twice, and one of others: built at once, as each downloads."""
    here = cast("Platform", platform.machine())
    there: Platform = "x86_64" if here == "aarch64" else "aarch64"
    with ThreadPoolExecutor() as threads:
        yield {
            name: threads.submit(build, target, tmp_path_factory.mktemp(name))
            for name, target in {"here": here, "again": here, "there": there}.items()
        }


@pytest.fixture(scope="session")
def package(packages: dict[str, Future[Package]]) -> Package:
    """The first of them."""
    return packages["here"].result()


@pytest.fixture(scope="session")
def node_python() -> str:
    """An interpreter as the nodes have it: Python 3.11, outside of any virtual environment."""
    folders = [Path(sys.base_prefix, "bin"), *map(Path, os.environ["PATH"].split(os.pathsep))]
    for folder in folders:
        if (python := folder / "python3.11").is_file() and not (folder.parent / "pyvenv.cfg").exists():
            return str(python)
    message = "this test needs a python3.11 on the PATH"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def _samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    samples = write_samples(tmp_path_factory.mktemp("samples"), pictures=60, classes=6, broken=4)
    return samples.pictures, list(samples.broken)


@pytest.fixture
def pictures(_samples: tuple[list[Path], list[Path]]) -> list[Path]:
    """60 pictures of fruit."""
    return _samples[0]


@pytest.fixture
def broken(_samples: tuple[list[Path], list[Path]]) -> list[Path]:
    """4 files that are none."""
    return _samples[1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        message = f"this test needs the right to mount a file system: {mounted.stderr.decode().strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    yield folder
    subprocess.run(["umount", folder], check=True)
