"""Compares two systems that run at the same time, one on each of two cores, and change cores many times.

Shared machines change their speed within minutes, and their cores differ. So both systems run side by side for the
whole comparison, each process tree on one core. A round has two slices: in the second one the systems have changed
cores. The ratio of a round is that of the pictures that the two did in it, so the speed of the cores and of the moment
counts for both alike. The figure is the median of the rounds, beside their spread.

Others on the machine slow both down alike, because Linux shares a core among sessions before it shares it among
threads, and each system is a session of its own. Still, what a system spends whether or not it gets on weighs more
then. The share of its core that each had tells: on an idle machine, the rest is time in which the system waited.

Start-up is left out: the first round begins when both have got going. Pictures are counted by what a system has
committed or noted, with a straight line between two of those moments, so a slice should not be much shorter than the
time from one commit to the next. User and system seconds of the process trees are read at the ends of the slices.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks.support.common import Figure, arguments, at_least, spread
from benchmarks.support.counted import BACKBONE, PROJECTION, read_noted
from tests.support.models import random_projection
from tests.support.scratch import COMPONENTS, read_backbone
from tests.support.streams import PROJECT, Place

ROUNDS = 5
SLICE_SECONDS = 15.0
_FASTEST = 300  # pictures per second on one core
_WARM = 2  # moments of progress that a system has behind it when it has got going
_LONGEST_WAIT = 300.0
_POLL_SECONDS = 0.5
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

Progress = Sequence[tuple[float, int]]
"""Moments, as of time.time(), and how many pictures were done until then; ascending."""


@dataclass(frozen=True)
class System:
    """A program that works on pictures, on more of them than it can do during the comparison.

    Attributes:
        name: in the table.
        folder: for its temporary files and all that it says.
        command: the program and its arguments.
        progress: asked while it runs.
    """

    name: str
    folder: Path
    command: Sequence[str]
    progress: Callable[[], Progress] = field(repr=False)


@dataclass(frozen=True)
class Round:
    """What both systems did in the same seconds, each as long on the one core as on the other.

    Attributes:
        seconds: it took.
        pictures: done by each.
        cpu_seconds: user and system, of all processes of each.
    """

    seconds: float
    pictures: tuple[float, float]
    cpu_seconds: tuple[float, float]

    @property
    def ratio(self) -> float:
        """The pictures of the first system over those of the second."""
        return self.pictures[0] / self.pictures[1]


@dataclass(frozen=True)
class Comparison:
    """The rounds of two systems."""

    names: tuple[str, str]
    rounds: Sequence[Round]

    def figures(self, what: str, target: float | None = None) -> Iterator[Figure]:
        """Lines of the table: the ratio, then the rate and the CPU time of each; medians, with least and most.

        Args:
            what: both systems worked on.
            target: the least ratio.
        """
        ratios = [one.ratio for one in self.rounds]
        whole = f"{' over '.join(self.names)}, {what}"
        yield Figure(whole, spread(ratios, ".2f", "x")) if target is None else at_least(whole, ratios, target)
        for place, name in enumerate(self.names):
            rates = [one.pictures[place] / one.seconds for one in self.rounds]
            costs = [1000 * one.cpu_seconds[place] / one.pictures[place] for one in self.rounds]
            had = median(one.cpu_seconds[place] / one.seconds for one in self.rounds)
            yield Figure(f"{name}, {what}, on one core, of which it had {had:.0%}", spread(rates, ".0f", "/s"))
            yield Figure(f"{name}, {what}, user + system of all processes per picture", spread(costs, ".1f", " ms"))


def enough_pictures(rounds: int = ROUNDS, seconds: float = SLICE_SECONDS) -> int:
    """As many pictures as no system can do during a comparison."""
    return int(_FASTEST * (2 * rounds * seconds + 60))


def stream(name: str, place: Place, *more: str) -> System:
    """A replay on `place` with one slot for tasks; its pictures are done when they are committed."""
    options = arguments(place, "replay", "--master", "local[1,4]", *more)
    return System(name, place.root, [sys.executable, "-m", "streaming", *options], partial(committed, place.output))


def noting(name: str, folder: Path, module: str, python: Path = Path(sys.executable)) -> System:
    """A module of `benchmarks.support` that is given a folder, and notes in it what it has done of the pictures there.

    Args:
        name: of the system.
        folder: gets the model, and has the pictures in `counted.PICTURES`.
        module: its name.
        python: the interpreter that it needs.
    """
    (folder / BACKBONE).write_bytes(read_backbone())
    (folder / PROJECTION).write_bytes(random_projection(COMPONENTS, seed=0).to_bytes())
    command = [str(python), "-m", f"benchmarks.support.{module}", str(folder)]
    return System(name, folder, command, partial(read_noted, folder))


def compare(one: System, other: System, rounds: int = ROUNDS, seconds: float = SLICE_SECONDS) -> Comparison:
    """Run both, and stop them when the rounds are over.

    Args:
        one: its rate is divided by that of `other`.
        other: see `one`.
        rounds: of two slices each.
        seconds: of a slice.

    Raises:
        RuntimeError: one of them has ended, or does not get on; with all that it said.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the systems would outlive this process
    cores = sorted(os.sched_getaffinity(0))[:2]
    with _running(one, cores[0]) as first, _running(other, cores[1]) as second:
        both = (first, second)
        for program in both:
            program.wait_for(lambda moments: len(moments) >= _WARM)
        ends = [_look(both)]
        for _ in range(rounds):
            for order in (cores, cores[::-1]):
                for program, core in zip(both, order, strict=True):
                    program.move_to(core)
                time.sleep(seconds)
            ends.append(_look(both))
        for program in both:
            program.wait_for(lambda moments: moments[-1][0] > ends[-1].at)
        done = [program.done_at([end.at for end in ends]) for program in both]
    return Comparison(
        (one.name, other.name),
        [
            Round(
                until.at - since.at,
                (float(done[0][number + 1] - done[0][number]), float(done[1][number + 1] - done[1][number])),
                (until.cpu_seconds[0] - since.cpu_seconds[0], until.cpu_seconds[1] - since.cpu_seconds[1]),
            )
            for number, (since, until) in enumerate(pairwise(ends))
        ],
    )


@dataclass(frozen=True)
class _End:
    """The end of a round: when it was, and the seconds that each system had used until then."""

    at: float
    cpu_seconds: tuple[float, float]


class _Program:
    """A system that runs, on one core."""

    def __init__(self, system: System, process: subprocess.Popen[bytes], said: Path) -> None:
        self._system = system
        self._process = process
        self._said = said

    def wait_for(self, reached: Callable[[Progress], bool]) -> None:
        """Wait until its progress is as wanted."""
        give_up = time.monotonic() + _LONGEST_WAIT
        while not reached(self._system.progress()):
            if self._process.poll() is not None or time.monotonic() > give_up:
                said = self._said.read_text(errors="replace")[-10_000:]
                raise RuntimeError(f"{self._system.name} has ended or does not get on:\n{said}")
            time.sleep(_POLL_SECONDS)

    def family(self) -> list[psutil.Process]:
        """All of its processes."""
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def move_to(self, core: int) -> None:
        """Keep all threads of all its processes to a core; what they start inherits it.

        Twice, because a thread that was not moved yet may start others meanwhile.
        """
        for _ in range(2):
            for process in self.family():
                with suppress(psutil.NoSuchProcess):
                    for thread in process.threads():
                        with suppress(ProcessLookupError):  # it has just ended
                            os.sched_setaffinity(thread.id, {core})

    def cpu_seconds(self) -> float:
        """User and system seconds of all its processes until now; those that have ended are in their parents' sums."""
        seconds = 0.0
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system + times.children_user + times.children_system
        return seconds

    def done_at(self, moments: Sequence[float]) -> list[float]:
        """How many pictures were done at each of these moments."""
        when, count = zip(*self._system.progress(), strict=True)
        return [float(done) for done in np.interp(moments, when, count)]


def _look(both: tuple[_Program, _Program]) -> _End:
    return _End(time.time(), (both[0].cpu_seconds(), both[1].cpu_seconds()))


@contextmanager
def _running(system: System, core: int) -> Iterator[_Program]:
    """Start a system on a core, and kill all of its processes afterwards; its temporary files are in its folder."""
    temporary, said = system.folder / "tmp", system.folder / "said.txt"
    temporary.mkdir()
    with said.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *system.command],
            cwd=PROJECT,
            env={**os.environ, **_ONE_THREAD, "TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it gets a share of its core as a whole, however many threads it has
        )
    program = _Program(system, process, said)
    try:
        yield program
    finally:
        family = program.family() if process.poll() is None else []
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        psutil.wait_procs(family)


def committed(output: Path) -> Progress:
    """What a stream has committed to an output: by the times of its files of features."""
    files = sorted(output.glob("features/date=*/2*.parquet"))
    return [
        (file.stat().st_mtime, done)
        for file, done in zip(files, accumulate(pq.read_metadata(file).num_rows for file in files), strict=True)
    ]
