"""Helpers of all benchmarks: run and watch programs, and format figures."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import pyarrow.parquet as pq

from conf.spark import worker_daemon
from tests.support.streams import Place, start

CORES = len(os.sched_getaffinity(0))
ROUNDS = 5  # of whole programs
INTERVAL = "100ms"  # the shortest that makes sense: Spark looks for manifests as often

_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Figure:
    """A line of the table.

    Attributes:
        what: was measured.
        measured: the value with its unit.
        target: what is asked for; empty where the value only explains others.
        met: whether `measured` reaches `target`.
    """

    what: str
    measured: str
    target: str = ""
    met: bool | None = None


def at_least(what: str, ratios: Sequence[float], target: float) -> Figure:
    """Ratios whose median has to reach `target`."""
    return Figure(what, spread(ratios, ".2f", "x"), f">= {target:g}x", median(ratios) >= target)


def at_most(what: str, value: float, target: float, unit: str) -> Figure:
    """A value that must not exceed `target`."""
    return Figure(what, f"{value:.3g}{unit}", f"<= {target:g}{unit}", value <= target)


def spread(values: Sequence[float], digits: str, unit: str) -> str:
    """The median, with the least and the most."""
    return f"{median(values):{digits}}{unit} ({min(values):{digits}} to {max(values):{digits}})"


def print_figures(figures: Iterable[Figure]) -> None:
    """Print a Markdown table."""
    print("\n| what | measured | target | met |\n|---|---:|---:|---|")
    for figure in figures:
        met = "" if figure.met is None else "yes" if figure.met else "NO"
        print(f"| {figure.what} | {figure.measured} | {figure.target} | {met} |", flush=True)


def arguments(place: Place, verb: str, *more: str) -> list[str]:
    """The command line of a verb of the stream on all cores of this machine."""
    return place.arguments(verb, "--master", f"local[{CORES},4]", "--log-folder", str(place.root / "log"), *more)


def run_program(program: str, arguments: Sequence[str]) -> float:
    """Run a program of the project to its end, and return how many seconds it took.

    Raises:
        RuntimeError: it failed; with all that it said.
    """
    wait_for_quiet()
    started = time.monotonic()
    _finish(program, start(program, arguments))
    return time.monotonic() - started


@dataclass(frozen=True)
class Measured:
    """A run of a program.

    Attributes:
        seconds: from its start to its end.
        cpu: seconds of all of its processes together, of the user and of the system.
        memory: the most bytes that all of its processes had together, shared pages counted once (PSS).
        said: all that it said.
    """

    seconds: float
    cpu: float
    memory: int
    said: str


def costs(
    what: str, runs: Sequence[Measured], seconds: float | None = None, gigabytes: float | None = None
) -> Iterator[Figure]:
    """Lines of the table on runs of the same: seconds, CPU, and the most memory of any.

    Args:
        what: was run.
        runs: one or more.
        seconds: the longest that their median should be.
        gigabytes: the most memory that any should have.
    """
    took, memory = [run.seconds for run in runs], max(run.memory for run in runs) / 1e9
    asked, met = ("", None) if seconds is None else (f"<= {seconds:g} s", median(took) <= seconds)
    yield Figure(what, spread(took, ".1f", " s"), asked, met)
    yield Figure(f"{what}: CPU of all processes", spread([run.cpu for run in runs], ".1f", " s"))
    asked, met = ("", None) if gigabytes is None else (f"<= {gigabytes:g} GB", memory <= gigabytes)
    yield Figure(f"{what}: memory of all processes, most", f"{memory:.2f} GB", asked, met)


def run_measured(program: str, arguments: Sequence[str]) -> Measured:
    """The same, watched.

    Raises:
        RuntimeError: it failed; with all that it said.
    """
    wait_for_quiet()
    started = time.monotonic()
    process = start(program, arguments)
    watch = _Watch(process)
    said = _finish(program, process)
    seconds = time.monotonic() - started
    watch.stop()
    return Measured(seconds, sum(watch.cpu.values()), watch.memory, said)


def _finish(program: str, process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{program} ended with {process.returncode}:\n{said}")
    return said


@contextmanager
def running(place: Place, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A stream on `place` that takes a picture as soon as it is there, stopped afterwards."""
    wait_for_quiet()
    process = start("streaming", arguments(place, "run", "--interval", INTERVAL, *more))
    try:
        yield process
    finally:
        process.terminate()
        said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the stream ended with {process.returncode}:\n{said}")


def java_of(stream: subprocess.Popen[str]) -> psutil.Process:
    """The JVM of a program."""
    [java] = [child for child in psutil.Process(stream.pid).children() if child.name() == "java"]
    return java


def workers_of(stream: subprocess.Popen[str]) -> list[psutil.Process]:
    """The Python workers, which Spark's daemon forks; they carry its command line."""
    family = psutil.Process(stream.pid).children(recursive=True)
    daemons = [one for one in family if worker_daemon.__name__ in one.as_dict(["cmdline"], ad_value=[])["cmdline"]]
    return [one for one in daemons if one.parent() in daemons]


class _Watch:
    """Follows a program and its children until it ends.

    Attributes:
        memory: the most that they had together, in bytes, shared pages counted once (PSS).
        cpu: the seconds of each, by its process id, of the user and of the system.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.memory = 0
        self.cpu: dict[int, float] = {}
        self._process = psutil.Process(process.pid)
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, once the program has ended."""
        self._leave.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._leave.wait(_SAMPLE_SECONDS):
            try:
                family = [self._process, *self._process.children(recursive=True)]
                self.cpu |= {one.pid: sum(one.cpu_times()[:2]) for one in family}
                self.memory = max(self.memory, sum(one.memory_full_info().pss for one in family))
            except psutil.Error:
                continue  # one has just ended


def wait_for_quiet() -> None:
    """Wait until nobody else uses the machine, for a minute at most: what runs beside a measurement spoils it."""
    give_up = time.monotonic() + 60
    while psutil.cpu_percent(interval=1) > 10 and time.monotonic() < give_up:
        pass


def peak(process: psutil.Process) -> float:
    """The peak of resident memory in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024 / 1e6


def steady_rate(place: Place) -> float:
    """The pictures per second of a replay after its first micro-batch."""
    first, *others = sorted(place.output.glob("features/date=*/2*.parquet"))
    seconds = others[-1].stat().st_mtime - first.stat().st_mtime
    return float(sum(pq.read_metadata(file).num_rows for file in others) / seconds)


def link_pictures(folder: Path, pictures: Iterable[Path], count: int) -> None:
    """Fill `folder` with `count` files: each of `pictures` in turn, under as many names as it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    originals = list(pictures)
    for number in range(count):
        os.link(originals[number % len(originals)], folder / f"{number:06}.jpg")
