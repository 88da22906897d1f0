"""Measures the seconds from a command to what its user waits for, as whole programs on a warm disk.

    python -m benchmarks.start_up [CHECKOUT]

Of a replay it is the first committed row, and the end of the program. CHECKOUT is another version of the
project; its replays run in turn with those of this one, in the same environment, each into an output of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks.support.common import (
    ROUNDS,
    Figure,
    arguments,
    at_most,
    link_pictures,
    print_figures,
    spread,
    wait_for_quiet,
)
from tests.support.samples import write_samples
from tests.support.scratch import COMPONENTS, WEIGHTS, new_place
from tests.support.streams import PROJECT

_PICTURES = 200


def measure(*others: Path) -> Iterator[Figure]:
    """Replays of this checkout and of others, then verbs that need no Spark."""
    with new_place() as place:
        link_pictures(place.source, write_samples(place.root / "pictures", _PICTURES, broken=0).pictures, _PICTURES)
        runs: dict[Path, list[tuple[float, float]]] = {checkout: [] for checkout in (PROJECT, *others)}
        numbers = {checkout: number for number, checkout in enumerate(runs)}  # two may have one name
        models = {checkout: ["--models", str(place.root / f"models-{numbers[checkout]}")] for checkout in runs}
        for checkout in runs:
            fit = ["fit", "--input", str(place.source), "--weights", WEIGHTS, "--k", str(COMPONENTS)]
            _run(checkout, "batch_fit", [*fit, *models[checkout], "--log-folder", str(place.root / "log")])
        for _ in range(ROUNDS):
            for checkout, seconds in runs.items():
                output = place.root / f"out-{numbers[checkout]}-{len(seconds)}"
                words = [*arguments(place, "replay"), *models[checkout], "--output", str(output)]
                started, ended = _run(checkout, "streaming", words)
                committed = min(file.stat().st_mtime for file in output.glob("features/date=*/2*.parquet"))
                seconds.append((committed - started, ended - started))
        for checkout, seconds in runs.items():
            name = f"replay of {_PICTURES}" + ("" if checkout == PROJECT else f", version {_version(checkout)}")
            for what, values in zip(("first committed row", "end"), zip(*seconds, strict=True), strict=True):
                yield Figure(f"{name}: command to {what}, {ROUNDS} runs", spread(values, ".2f", " s"))
        status = ["status", "--output", str(place.root / f"out-{numbers[PROJECT]}-0"), "--log-folder", str(place.root)]
        for what, words in (("--help", ["--help"]), ("status", status)):
            took = [ended - started for started, ended in (_run(PROJECT, "streaming", words) for _ in range(ROUNDS))]
            yield at_most(f"`{what}`, {spread(took, '.2f', ' s')}", median(took), 0.6, " s")


def _run(checkout: Path, program: str, words: Sequence[str]) -> tuple[float, float]:
    """When a program of a checkout was started, and when it had ended."""
    wait_for_quiet()
    started = time.time()
    subprocess.run([sys.executable, "-m", program, *words], cwd=checkout, check=True, capture_output=True)
    return started, time.time()


def _version(checkout: Path) -> str:
    words = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    print_figures(measure(*map(Path, sys.argv[1:])))
