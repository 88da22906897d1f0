"""Inputs and outputs to reconcile, and the question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conf.aws.connection import AWS_DEFAULTS, S3Connection
from streaming.__main__ import main as stream
from streaming.output.places import Input
from streaming.storage.folder import Folder
from tests.support.streams import begin
from tests.support.tenures import new_listing

ODD = ["a b/é/1%20.jpg", "a b/é/2+.jpg", "a b/#?.jpg", "c/d/e/f/g.jpg", "_x/.y.jpg", "top=.jpg"]


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def look_once(source: str, output: Folder, connection: S3Connection = AWS_DEFAULTS) -> None:
    """What a stream does before it featurizes: each picture in a manifest, two a manifest."""
    begin(output)
    new_listing(Input(source, connection), output).look(2)


def reconcile_arguments(source: str | Path, output: str, *more: str) -> list[str]:
    places = ["--input", str(source), "--output", output]
    return ["reconcile", *places, "--settle", "0s", "--master", "local[2,4]", *more]


class Asked:
    """Reconcile in this process, asked for JSON."""

    def __init__(self, source: str | Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._arguments = reconcile_arguments(source, output, "--json")
        self._capsys = capsys

    def __call__(self, *more: str) -> dict[str, Any]:
        self._capsys.readouterr()
        assert stream([*self._arguments, *more]) == 0
        answer: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return answer


def counts_in(answer: dict[str, Any]) -> dict[str, int]:
    return {key: value for key, value in answer.items() if isinstance(value, int) and value}
