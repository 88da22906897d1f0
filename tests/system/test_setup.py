"""Set-up: a checkout finds or fetches what it needs, or says in one line what to install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conf.errors import PlatformError
from conf.spark import java

PROJECT = Path(__file__).resolve().parents[2]
LOCKS = ["run.txt", "fit.txt", "dev.txt", "java.txt", "peers.txt", "uv.txt"]
VECTOR = "jdk.incubator.vector"
UNREACHABLE = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_RETRIES": "1", "PIP_FIND_LINKS": ""}


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def fake_java(home: Path, version: str, module: str = VECTOR) -> Path:
    """A JAVA_HOME whose launcher answers as that of a JDK does, with the noise that JAVA_TOOL_OPTIONS makes."""
    executable(
        home / "bin/java",
        f"""
        echo 'Picked up JAVA_TOOL_OPTIONS: -Dx=y' >&2
        case "$*" in
        --list-modules) printf 'java.base@{version}.0.1\\n{module}@{version}.0.1\\n' ;;
        *-version) printf '    java.home = {home}\\n    java.specification.version = {version}\\n' >&2 ;;
        esac""",
    )
    return home


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Java; returns the project's folder on it."""
    project = tmp_path / "project"
    (project / "requirements").mkdir(parents=True)
    monkeypatch.setattr(java, "_PROJECT", project)
    monkeypatch.setattr(java, "_FETCHED", project / ".java")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return project


@pytest.mark.parametrize("version", ["17", "21"])
@pytest.mark.usefixtures("no_java")
def test_java_17_and_21_are_found_on_the_path(version: str, tmp_path: Path) -> None:
    home = fake_java(tmp_path / "jdk", version)
    (tmp_path / "bin").symlink_to(home / "bin")
    assert java.find_java() == home


def test_the_projects_own_java_comes_before_java_home_and_that_before_the_path(
    no_java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = fake_java(tmp_path, "17")
    assert java.find_java() == on_path
    in_environment = fake_java(tmp_path / "jdk", "17")
    monkeypatch.setenv("JAVA_HOME", str(in_environment))
    assert java.find_java() == in_environment
    fetched = fake_java(no_java / ".java", "17")
    assert java.find_java() == fetched


@pytest.mark.usefixtures("no_java")
def test_a_java_that_does_not_fit_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "old", "1.8")))
    fitting = fake_java(tmp_path, "17")
    assert java.find_java() == fitting


@pytest.mark.parametrize(
    ("version", "module", "problem"),
    [
        ("1.8", VECTOR, "is Java 8"),
        ("11", VECTOR, "is Java 11"),
        ("25", VECTOR, "is Java 25"),
        ("17", "java.logging", f"is a cut-down Java 17 without the module {VECTOR}"),
        ("nonsense", VECTOR, "does not run"),
    ],
)
@pytest.mark.usefixtures("no_java")
def test_a_java_that_does_not_fit_is_named_with_what_is_needed(
    version: str, module: str, problem: str, tmp_path: Path
) -> None:
    fake_java(tmp_path, version, module)
    with pytest.raises(PlatformError) as error:
        java.find_java()
    assert f"Spark needs Java 17 or 21, and {tmp_path}/bin/java {problem}; install one (apt install" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_java")
def test_a_java_home_without_java_in_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(PlatformError, match=r"gone/bin/java does not run"):
        java.find_java()


def test_the_java_of_this_machine_is_a_home_that_spark_can_use() -> None:
    assert os.access(java.find_java() / "bin/java", os.X_OK)


def test_where_there_is_no_java_one_is_fetched_into_the_project(
    no_java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The download is install-jdk's own; a stand-in for it leaves a JDK laid out as on macOS."""
    downloaded = fake_java(tmp_path / "jdk-17.0.1/Contents/Home", "17").parent.parent

    def pretend_to_download(*arguments: str) -> None:
        if arguments[0] == "-c":
            shutil.copytree(downloaded, Path(arguments[-1], downloaded.name))

    monkeypatch.setattr(java, "_python", pretend_to_download)
    assert java.main() == 0
    assert capsys.readouterr().out == f"{no_java / '.java'}\n"
    assert os.access(no_java / ".java/bin/java", os.X_OK)


def test_a_java_that_cannot_be_fetched_ends_in_one_line_and_leaves_nothing(
    no_java: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(PROJECT / "requirements/java.txt", no_java / "requirements")
    for name, value in UNREACHABLE.items():
        monkeypatch.setenv(name, value)
    assert java.main() == PlatformError.exit_code
    announcement, problem = capsys.readouterr().err.splitlines()
    assert announcement.startswith("No Java 17 or 21 here: fetching one")
    assert "install one (apt install openjdk-17-jre-headless" in problem
    assert "which failed just now (ERROR: No matching distribution found for install-jdk" in problem
    assert not (no_java / ".java").exists()
    assert not list((no_java / "build").iterdir())


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_locked_to_hashes_and_to_no_address(name: str) -> None:
    lock = (PROJECT / "requirements" / name).read_text()
    requirements = re.findall(r"^[a-z0-9].*(?:\n .*)*", lock, re.MULTILINE)
    assert requirements
    assert all(re.match(r"\S+==\S+ .*\n +--hash=sha256:[0-9a-f]{64}", requirement) for requirement in requirements)
    assert not re.search(r"://|^-", lock, re.MULTILINE)


def test_the_locks_agree_and_only_those_that_fit_hold_tensorflow() -> None:
    pins = {
        name: set(re.findall(r"^([a-z0-9]\S+==\S+)", (PROJECT / "requirements" / name).read_text(), re.MULTILINE))
        for name in LOCKS
    }
    assert pins["run.txt"] < pins["fit.txt"] < pins["dev.txt"]
    assert not [pin for pin in pins["run.txt"] if pin.startswith(("tensorflow", "keras"))]


def test_make_lists_its_targets() -> None:
    listed = run_make(PROJECT).stdout
    assert re.findall(r"^make ([\w-]+) +\S", listed, re.MULTILINE) == [
        "help",
        "setup",
        "demo",
        "notebook",
        "test-fast",
        "test",
        "test-yarn",
        "soak",
        "check",
        "bench",
        "bench-peers",
        "clean",
    ]


def run_make(folder: Path, *targets: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Under `make test` this would be a make within a make, which says more.
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *targets], cwd=folder, env=outer | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh checkout, as far as set-up looks at it, that locks no package."""
    folder = tmp_path / "checkout"
    (folder / "conf/spark").mkdir(parents=True)
    for name in ("Makefile", "conf/__init__.py", "conf/errors.py", "conf/spark/__init__.py", "conf/spark/java.py"):
        shutil.copy(PROJECT / name, folder / name)
    shutil.copytree(PROJECT / "requirements", folder / "requirements")
    (folder / "requirements/dev.txt").write_text("# nothing\n")
    return folder


def problem_of(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that set-up fails with; the other is make's own."""
    assert result.returncode == 2
    problem, makes_own = result.stderr.splitlines()
    assert makes_own.startswith("make: ***")
    return problem


@pytest.mark.parametrize(
    "python", ["exit 127", "exit 1"], ids=["a launcher for a version that is not installed", "another version"]
)
def test_without_a_fitting_python_one_line_says_what_to_install(checkout: Path, tmp_path: Path, python: str) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        executable(tmp_path / "bin" / name, f"echo 'no such version' >&2; {python}")
    problem = problem_of(run_make(checkout, "setup", PATH=f"{tmp_path / 'bin'}:{os.defpath}"))
    assert re.match(r"setup: Python 3\.11, 3\.12 or 3\.13 is needed .* install it \(apt install python3\.11 ", problem)


def test_without_ensurepip_one_line_says_what_to_install(checkout: Path, tmp_path: Path) -> None:
    executable(tmp_path / "bin/python3.11", 'case "$*" in *ensurepip*) echo Traceback >&2; exit 1 ;; esac')
    problem = problem_of(run_make(checkout, "setup", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}"))
    assert "install it (apt install python3.11-venv)" in problem


def test_setup_installs_once_and_again_when_the_lock_has_changed(checkout: Path) -> None:
    """Without network one line says so, and nothing counts as installed."""
    lock = checkout / "requirements/dev.txt"
    shutil.copy(PROJECT / "requirements/java.txt", lock)
    assert "the package index does not answer" in problem_of(run_make(checkout, "setup", **UNREACHABLE))
    lock.write_text("# nothing\n")
    said = run_make(checkout, "setup").stdout
    assert "installing" in said
    assert "uv cannot" not in said
    again = run_make(checkout, "setup")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    leftover = checkout / ".venv/leftover"
    leftover.touch()
    lock.write_text("# nothing else\n")
    assert "installing" in run_make(checkout, "setup").stdout
    assert not leftover.exists()


def test_an_environment_that_another_checkout_uses_too_is_left_alone(checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "lib").mkdir(parents=True)
    (checkout / ".venv").symlink_to(other)
    assert ".venv is a link" in problem_of(run_make(checkout, "setup"))
    assert (other / "lib").exists()


def test_spark_starts_in_silence_with_an_archive_of_classes_that_does_not_fit(
    tmp_path: Path,
) -> None:
    archive = tmp_path / "with space.jsa"
    archive.write_bytes(b"of another Java")
    script = (
        "import sys, pathlib; from conf.spark import session; from conf.loading import load_settings;"
        "session.CLASS_ARCHIVE = pathlib.Path(sys.argv[1]);"
        "session.start_session('test', load_settings({'log.folder': sys.argv[2]}), {}).stop()"
    )
    command = [sys.executable, "-c", script, str(archive), str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    assert done.stdout == ""
