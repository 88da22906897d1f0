"""The unit of systemd, the Dockerfile and the pages for operators, against the program that they are about."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from conf import COMMAND, errors, interrupts
from conf.command import main as picture_features
from conf.loading import load_settings
from conf.spark.java import _REMEDY
from streaming.output.format_number import FORMAT
from tests.support.streams import PROJECT

UNIT = PROJECT / "docs" / "examples" / "picture-features.service"
DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
OPERATIONS = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
UPGRADE = (PROJECT / "docs" / "upgrade.md").read_text(encoding="utf-8")

_WORTH_A_RESTART = {errors.AppError, errors.PlatformError}


def _service() -> configparser.SectionProxy:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign] # the names are in mixed case
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    return unit["Service"]


def test_the_service_restarts_where_no_person_has_to_do_something_first() -> None:
    """By the exit codes of the program, of which the page for operators tells the same."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AppError)]
    of_persons = {kind.exit_code for kind in kinds} - {kind.exit_code for kind in _WORTH_A_RESTART}
    of_status = {errors.UnhealthyError.exit_code}
    prevented = {int(code) for code in _service()["RestartPreventExitStatus"].split()}
    assert prevented == of_persons - of_status | {interrupts.EXIT_CODE}
    told = re.search(r"RestartPreventExitStatus=([\d ]+\d)", OPERATIONS)
    assert told
    assert {int(code) for code in told[1].split()} == prevented


def test_the_service_runs_what_is_installed_with_settings_that_there_are(tmp_path: Path) -> None:
    """The settings are those of its comment."""
    program, *words = _service()["ExecStart"].split()
    assert Path(program).name == COMMAND
    settings = tmp_path / "picture-features.yaml"
    settings.write_text("".join(re.findall(r"^#   (\w+: .+\n)", UNIT.read_text(encoding="utf-8"), re.MULTILINE)))
    assert load_settings({}, settings).output == "/srv/features/table"
    assert words == ["run", "--config", "/etc/picture-features.yaml"]
    words[-1] = str(settings)
    assert picture_features([*words, "--input", str(tmp_path / "nothing"), "--log-folder", str(tmp_path)]) in (3, 4)
    variables = dict(pair.split("=") for pair in _service()["Environment"].split())
    assert variables["XDG_STATE_HOME"] == "%S"
    assert _service()["StateDirectory"] == COMMAND  # as the log folder is called below it


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_takes_the_service(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    program = _service()["ExecStart"].split()[0]
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(program, shutil.which("true") or ""), encoding="utf-8")
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_image_is_made_of_files_and_commands_of_this_project() -> None:
    """It is not built here: that needs a base image."""
    copied = [word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]]
    sent = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in copied:
        assert (PROJECT / name).exists()
        assert name.split("/")[0] in sent
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= {*copied}
    for lock in ("run", re.findall(r"LOCK=(\w+)", DOCKERFILE)[-1], "fit"):
        assert f"requirements/{lock}.txt" in copied
    for module in re.findall(r"python -m ([\w.]+)", DOCKERFILE):
        assert find_spec(module)
    [java] = re.findall(r"openjdk-\d+-jre-headless", DOCKERFILE)
    assert java in _REMEDY
    assert re.search(r"^FROM python:3\.11-", DOCKERFILE, re.MULTILINE)
    assert f'ENTRYPOINT ["{COMMAND}"]' in DOCKERFILE
    assert COMMAND in project["project"]["scripts"]


def test_the_page_about_upgrades_has_each_number_of_the_format() -> None:
    rows = re.findall(r"^\| (\d+) \|", UPGRADE, re.MULTILINE)
    assert [*map(int, rows)] == [*range(1, FORMAT + 1)]
