"""Runs what stands in code blocks of a page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.data import shared_data
from tests.support.streams import PROJECT


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page, in its order."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def block(page: str, language: str, containing: str) -> str:
    """The one code block that contains some text."""
    [found] = [found for found in blocks(page, language) if containing in found]
    return found


def unlisted(page: str, heading: str, folder: Path) -> list[str]:
    """The files in a folder that no pattern in the first column of a section's table matches, as in docs/formats.md."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    patterns = [_as_regex(pattern) for cell in cells for pattern in re.findall(r"`(.*?)`", cell)]
    files = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
    assert files
    return [file for file in files if not any(re.fullmatch(pattern, file) for pattern in patterns)]


def _as_regex(pattern: str) -> str:
    return re.sub(r"<.*?>", "[^/]+", re.escape(pattern)).replace(re.escape("..."), ".+")


def start_commands(commands: str, folder: Path) -> subprocess.Popen[str]:
    """Run shell commands in `folder`, with this interpreter as `python` and the ImageNet weights at hand."""
    (folder / "bin").mkdir(exist_ok=True)
    if not (folder / "bin" / "python").exists():
        (folder / "bin" / "python").symlink_to(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "KERAS_HOME": str(shared_data() / "keras_home"),
        "PICTURE_FEATURES_STREAM__SETTLE": "0s",
        "PICTURE_FEATURES_STREAM__INTERVAL": "200ms",
    }
    return subprocess.Popen(
        ["sh", "-euc", commands],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_commands(commands: str, folder: Path) -> str:
    """Run them to their end; returns what they said."""
    process = start_commands(commands, folder)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def run_python(code: str, folder: Path) -> str:
    """Run a snippet of Python to its end; returns what it said."""
    return run_commands(f'python - <<"END"\n{code}END', folder)
