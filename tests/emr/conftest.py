"""The templates as data; and an account on moto's server, empty or with the stacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conf.aws.connection import AWS_DEFAULTS, forget_clients
from conf.emr import stack as stacks
from conf.emr.application import SETTINGS
from conf.emr.stack import TEMPLATES, Part, Stack
from tests.support.aws_account import BUILT, REGION, forget_everything, run, with_application, write_templates
from tests.support.servers import CREDENTIALS
from tests.support.templates import PARTS, decoded


@pytest.fixture(scope="session")
def templates() -> dict[Part, dict[str, Any]]:
    return {part: decoded(TEMPLATES / f"{part}.yaml") for part in PARTS}


@pytest.fixture(scope="session")
def data(templates: dict[Part, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = templates["data"]["Resources"]
    return found


@pytest.fixture(scope="session")
def cluster(templates: dict[Part, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = templates["cluster"]["Resources"]
    return found


@pytest.fixture(scope="session")
def everything(templates: dict[Part, dict[str, Any]]) -> dict[str, Any]:
    return {f"{part}.{name}": one for part in PARTS for name, one in templates[part]["Resources"].items()}


@pytest.fixture(scope="session")
def templates_for_moto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The templates as moto takes them."""
    folder = tmp_path_factory.mktemp("templates")
    write_templates(folder)
    return folder


@pytest.fixture
def aws(
    moto_address: str, templates_for_moto: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    """An empty account, and a folder with a package."""
    for key, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": moto_address}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("AWS_REGION")  # the default region is the program's
    monkeypatch.setattr(stacks, "TEMPLATES", tmp_path / "templates")
    for pause in ("stack", "serverless", "cluster"):
        monkeypatch.setattr(f"conf.emr.{pause}._POLL_SECONDS", 0.01)
    monkeypatch.setattr("conf.emr.cluster.Cluster._fleets", lambda _: [])
    monkeypatch.setattr("conf.emr.deployment.check", lambda *_: [])  # see test_preflight.py: moto knows no such calls
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SETTINGS.parents[1]))  # stop starts a program of this checkout
    for platform in ("aarch64", "x86_64"):
        built = tmp_path / "build" / "emr" / platform
        built.mkdir(parents=True)
        for name in BUILT:
            (built / name).write_text(name)
    forget_everything(moto_address)
    forget_clients()
    stack = Stack.of("pictures", REGION, AWS_DEFAULTS)
    with_application(stack, templates_for_moto, tmp_path / "templates")
    yield stack
    forget_clients()


@pytest.fixture
def deployed(aws: Stack, capsys: pytest.CaptureFixture[str]) -> Iterator[Stack]:
    """Both forms, for which there is one set of data."""
    for compute, *more in (("serverless", "--set", "Network=yes"), ("cluster",)):
        assert run("deploy", "--yes", "--compute", compute, *more) == 0, capsys.readouterr().err
    capsys.readouterr()
    yield aws
    assert run("destroy", "--data", "--yes") == 0, capsys.readouterr().err
