"""The processes of this machine, of which any may end while one looks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil


def javas(said: str) -> list[psutil.Process]:
    """The Java processes with such words on their command line, which is in their `info`; also Spark's launcher."""
    return [one for one in _looked_at() if one.info["name"] == "java" and said in " ".join(one.info["cmdline"])]


def working_in(folder: Path) -> list[psutil.Process]:
    """The processes that work in a folder or below it, with name, command line and folder (`cwd`) in their `info`."""
    return [one for one in _looked_at() if Path(one.info["cwd"]).is_relative_to(folder)]


def _looked_at() -> Iterator[psutil.Process]:
    """All processes that are alive and can be looked at; `info` is of one moment, and needs the process no more."""
    for process in psutil.process_iter(["name", "cmdline", "cwd"]):
        if None not in process.info.values():
            yield process
