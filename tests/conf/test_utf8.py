"""File names are UTF-8, whatever the locale says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conf.errors import PlatformError
from streaming.storage.locations import open_folder
from tests.support.streams import PROJECT, begin, run

pytestmark = pytest.mark.usefixtures("programs")

_OTHERWISE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Python decodes names as ASCII, as it does with those of any other encoding than UTF-8: some characters become others.

A locale of ISO-8859-1 would do the same, and has to be installed.
"""


def test_a_name_is_the_same_in_another_locale(tmp_path: Path) -> None:
    """The process keeps its id, as service managers expect, and its arguments."""
    source, output = tmp_path / "bilder à", tmp_path / "é"
    source.mkdir()
    (source / "ö.jpg").write_bytes(b"0")
    begin(open_folder(str(output)))
    asked = ["reconcile", "--input", str(source), "--output", str(output), "--settle", "0s", "--json"]
    usual, otherwise = run("streaming", asked), run("streaming", asked, **_OTHERWISE)
    assert (usual.returncode, otherwise.returncode) == (0, 0)
    assert json.loads(otherwise.stdout)["missed_examples"] == [str(source / "ö.jpg")]
    assert otherwise.stdout == usual.stdout


def test_a_python_that_was_told_not_to_is_refused_in_one_line(tmp_path: Path) -> None:
    """Instead of starting itself for ever."""
    asked = [sys.executable, "-X", "utf8=0", "-m", "streaming", "status", "--output", str(tmp_path)]
    env = {**os.environ, **_OTHERWISE}
    asked += ["--log-format", "text"]
    done = subprocess.run(asked, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        PlatformError.exit_code,
        "error: Python decodes file names as ascii; leave out -X utf8=0, or set LC_ALL=C.UTF-8\n",
    )
