"""The command of the installed package: the verbs of both programs, and the version of all."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import batch_fit
import conf
import streaming
from batch_fit.__main__ import VERBS as FIT_VERBS
from batch_fit.__main__ import main as fit
from conf import COMMAND
from conf.command import PROGRAMS, main, start
from conf.emr.__main__ import main as emr
from streaming.__main__ import VERBS as STREAM_VERBS
from streaming.__main__ import main as stream
from tests.support.streams import PROJECT

PACKAGES = (batch_fit, conf, streaming)
VERBS = [verb for verbs in PROGRAMS.values() for verb in verbs]


@pytest.fixture
def pyproject() -> dict[str, Any]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def test_an_installation_has_the_command(pyproject: dict[str, Any]) -> None:
    [(name, value)] = pyproject["project"]["scripts"].items()
    assert name == COMMAND
    assert EntryPoint(name, value, "console_scripts").load() is start


def test_the_command_has_each_verb_of_both_programs_once() -> None:
    assert [verb.name for verb in STREAM_VERBS] == [*PROGRAMS["streaming"]]
    assert [verb.name for verb in FIT_VERBS] == [*PROGRAMS["batch_fit"]]
    assert max(Counter(VERBS).values()) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_says_what_was_typed(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {COMMAND} {verb} ")


def test_help_lists_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n    {verb}" in said for verb in VERBS)


@pytest.mark.parametrize("words", [["stream"], ["--debug"]])
def test_a_word_that_is_not_a_verb_ends_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"see {COMMAND} --help" in line


@pytest.mark.parametrize("program", [main, stream, fit, emr])
def test_a_program_without_a_word_shows_its_help(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert program([]) == 0
    shown = capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        program(["--help"])
    assert (shown.out, shown.err) == (capsys.readouterr().out, "")


@pytest.mark.parametrize("program", [stream, fit, emr])
def test_every_program_tells_the_one_version(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        program(["--version"])
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{COMMAND} {conf.__version__}\n" * 2
    assert {package.__version__ for package in PACKAGES} == {conf.__version__}


def test_the_version_of_the_package_is_that_of_the_code(pyproject: dict[str, Any]) -> None:
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "conf.__version__"}


def test_the_packages_say_that_they_are_typed(pyproject: dict[str, Any]) -> None:
    assert pyproject["tool"]["setuptools"]["package-data"]["*"] == ["py.typed"]
    assert all((PROJECT / package.__name__ / "py.typed").is_file() for package in PACKAGES)


def test_the_command_handles_signals_before_it_imports_what_takes_seconds() -> None:
    script = "import sys, conf.command; print({'pyspark', 'pyarrow', 'boto3', 'pydantic'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("program", "words", "needless"),
    [
        ("streaming", "--help", "numpy pyarrow"),
        ("streaming", "status --wrong", "numpy pyarrow"),
        ("streaming", "status --output {place}", ""),
        ("streaming", "status --check --output {place}", ""),
        ("streaming", "stop --output {place}", ""),
        ("streaming", "quarantine list --output {place}", ""),
        ("streaming", "similar a.jpg --table {place}", ""),
        ("streaming", "duplicates --table {place}", ""),
        ("batch_fit", "--help", "numpy pyarrow"),
        ("batch_fit", "models list --models {place}", ""),
    ],
)
def test_a_verb_without_spark_imports_nothing_that_takes_long(
    program: str, words: str, needless: str, tmp_path: Path
) -> None:
    """The answer is there within a second; what these modules take would be more than all the rest."""
    script = (
        "import runpy, sys\n"
        f"try: runpy.run_module('{program}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit: pass\n"
        f"loaded = {{'pyspark', 'pandas', 'tensorflow', 'ai_edge_litert', 'boto3', *'{needless}'.split()}}\n"
        "print('loaded', sorted(loaded & {*sys.modules}))"
    )
    command = [sys.executable, "-c", script, *words.format(place=tmp_path).split()]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"
