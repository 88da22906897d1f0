"""Fixtures that several test files share."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from pyspark.sql import SparkSession

from batch_fit.backbone import load_backbone
from conf.emr.package import Package, Platform, build
from conf.loading import load_settings
from conf.session import start_session
from streaming.features.storage import open_folder
from streaming.features.stored import Folder
from tests.buckets import Bucket, new_bucket
from tests.models import promote_model
from tests.samples import write_samples
from tests.servers import moto, versitygw
from tests.streams import Place
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _logs_of_this_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the programs' log files out of the home of whoever runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


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
def wait_for() -> Callable[..., None]:
    """Waits until a condition holds, and fails if it does not within so many seconds."""
    return wait_until


@pytest.fixture
def new_session(tmp_path: Path) -> Iterator[Callable[[], SparkSession]]:
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
def backbone() -> bytes:
    """MobileNetV2 with random weights as a LiteRT flatbuffer."""
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


@pytest.fixture(scope="session", params=[moto, versitygw], ids=["moto", "versitygw"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of each of the S3 servers in turn."""
    with request.param() as address:
        yield address


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket; the standard AWS environment says where it is, and no setting of ours."""
    with new_bucket(store, monkeypatch) as made:
        yield made


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """What a cluster of machines like this one gets."""
    return build(cast("Platform", platform.machine()), tmp_path_factory.mktemp("package"))


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
