"""Reconciling a million pictures with what a stream has seen of them.

    python -m benchmarks.reconcile [PICTURES [ROUNDS]]

The input is a local folder of empty files, 1,000 to a subfolder; all but 1,000 of them were found and folded by the
application's own code. Time is that of the whole program, the start of Spark included. Memory is the most that all of
its processes had together, shared pages counted once in proportion (PSS).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support.common import CORES, ROUNDS, Figure, costs, print_figures, run_measured
from streaming.output import known, manifests
from streaming.output.places import Input
from streaming.storage.locations import open_folder
from tests.support.streams import begin
from tests.support.tenures import LooseTenure, new_listing

_PICTURES = 1_000_000
_MISSED = 1_000
_PER_FOLDER = 1_000
_PER_MANIFEST = 10_000


def measure(pictures: int = _PICTURES, rounds: int = ROUNDS) -> Iterator[Figure]:
    """Seconds, pictures per second and peak memory."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        source, output = Path(folder) / "in", Path(folder) / "out"
        _make_files(source, 0, pictures - _MISSED)
        _see(source, output)
        _make_files(source, pictures - _MISSED, _MISSED)
        places = ["--input", str(source), "--output", str(output), "--settle", "0s", "--log-folder", f"{folder}/log"]
        words = ["reconcile", *places, "--json", "--master", f"local[{CORES},4]"]
        runs = [run_measured("streaming", words) for _ in range(rounds)]
    for run in runs:
        findings = json.loads(run.said.splitlines()[-1])
        assert (findings["listed"], findings["missed"], findings["changed"]) == (pictures, _MISSED, 0), findings
    yield from costs(f"reconcile of {pictures:,} pictures", runs)


def _make_files(source: Path, first: int, count: int) -> None:
    for number in range(first, first + count):
        file = source / f"{number // _PER_FOLDER:05}" / f"{number:08}.jpg"
        if number % _PER_FOLDER == 0:
            file.parent.mkdir(parents=True)
        file.touch()


def _see(source: Path, output: Path) -> None:
    folder = open_folder(str(output))
    begin(folder)
    new_listing(Input(str(source)), folder).look(_PER_MANIFEST)
    known.fold(LooseTenure(folder), manifests.manifest_ids(folder))


if __name__ == "__main__":
    print_figures(measure(*map(int, sys.argv[1:])))
