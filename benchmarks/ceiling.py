"""Measures how many pictures one driver can take, and whether that stays the same over 1,000 manifests.

    python -m benchmarks.ceiling --manifests 1000 --slots 2 16 64

In each slot a worker waits 5 ms per picture instead of working (see `benchmarks.support.waiting`), so one machine runs
as many slots as a cluster has. No picture exists: the application's own code has put manifests of made-up pictures into
the log, as after a scan. The rest is a whole replay. First come manifests of the default size, which show the cost of a
picture, then manifests of one picture per task, which show that of a manifest and its tasks; with 2 slots, there are
1,000 of these.

The driver's CPU is that of its Python and its Java. In a local session Java also has the threads of the tasks, which a
cluster runs on executors, so they count apart. Slopes are straight lines through all samples after the warm-up.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from benchmarks.support.common import Figure, java_of, print_figures, wait_for_quiet
from benchmarks.support.waiting import SECONDS_PER_PICTURE
from streaming.output.manifests import append_manifest, prepare_log
from streaming.storage.folder import StoredPicture
from streaming.storage.locations import open_folder
from tests.support.scratch import new_place
from tests.support.streams import Place, start

_SLOTS = (2, 16, 64)
_MANIFESTS = 1000
_SOME = 40  # manifests of one picture per task, where they show no slope
_LARGE = 8
_WARM_UP = 2
_PER_SLOT, _MOST = 2000, {"keep": 20_000, "drop": 100_000}  # the defaults of a stream
_SLICES_PER_SLOT = 2
_TASKS = "Executor task l"  # what Linux keeps of the name of a thread
_PAUSE = 0.5


@dataclass(frozen=True)
class _Sample:
    """What the driver has done and used so far: manifests, seconds of CPU, and resident bytes."""

    manifests: int
    python: float
    java: float
    tasks: float
    python_memory: int
    java_memory: int


@dataclass(frozen=True)
class _Cost:
    """Seconds of CPU per manifest: of the driver's Python, of its Java without tasks, and of the tasks in Java."""

    python: float
    java: float
    tasks: float

    def per(self, count: int, unit: str, digits: int = 0) -> str:
        """The same per one of `count`, in seconds times 10^6 or 10^3."""
        scale = {"us": 1e6, "ms": 1e3}[unit] / count
        return " + ".join(f"{one * scale:.{digits}f}" for one in (self.python, self.java, self.tasks)) + f" {unit}"


def measure(manifests: int = _MANIFESTS, slots: Sequence[int] = _SLOTS) -> Iterator[Figure]:
    """Rate, CPU and memory for each number of slots, with embeddings and without, and the slopes."""
    for number in slots:
        for embeddings, most in _MOST.items():
            size, small = min(_PER_SLOT * number, most), _SLICES_PER_SLOT * number
            count = manifests if number == min(slots) and embeddings == "drop" else _SOME
            with new_place() as place:
                _append(place, [size] * _LARGE + [small] * count)
                samples = _replay(place, number, embeddings)
                ends = np.array(
                    sorted(file.stat().st_mtime for file in place.output.glob("features/date=*/2*.parquet"))
                )
            what = f"{number} slots, embeddings {'kept' if embeddings == 'keep' else 'dropped'}"
            rate = size / median(np.diff(ends[_WARM_UP - 1 : _LARGE]))
            large, each = _cost(samples, _WARM_UP, _LARGE), _cost(samples, _LARGE + _WARM_UP, _LARGE + count)
            yield Figure(f"{what}: manifests of {size:,}, of {number / SECONDS_PER_PICTURE:,.0f}/s", f"{rate:,.0f}/s")
            yield Figure(f"{what}: CPU per picture, Python + Java + tasks in Java", large.per(size, "us"))
            yield Figure(f"{what}: CPU per manifest of {small}", each.per(1, "ms"))
            memory = [max(getattr(one, name) for one in samples) / 1e6 for name in ("python_memory", "java_memory")]
            yield Figure(f"{what}: memory, Python, Java", f"{memory[0]:.0f}, {memory[1]:.0f} MB")
            if count == manifests:
                yield from _slopes(what, samples, np.diff(ends[_LARGE + _WARM_UP :]))


def _append(place: Place, sizes: Sequence[int]) -> None:
    """Put manifests of these numbers of pictures into the log."""
    output, now = open_folder(str(place.output)), datetime.now(UTC) - timedelta(hours=1)
    prepare_log(output)
    for number, size in enumerate(sizes):
        folder = f"{place.source}/camera-{number:05}/2026-01-31"
        pictures = [StoredPicture(f"{folder}/{one:09}.jpg", 100_000 + one, now) for one in range(size)]
        append_manifest(output, pictures, now + timedelta(seconds=number))


def _replay(place: Place, slots: int, embeddings: str) -> list[_Sample]:
    wait_for_quiet()
    more = ("--master", f"local[{slots},4]", "--embeddings", embeddings, "--log-folder", str(place.root / "log"))
    stream = start("benchmarks.support.waiting_stream", place.arguments("replay", *more))
    samples: list[_Sample] = []
    tasks: dict[int, float] = {}
    while stream.poll() is None:
        time.sleep(_PAUSE)
        try:
            samples.append(_sample(place, stream, tasks))
        except (psutil.Error, ValueError):  # it has just ended, or has no JVM yet
            continue
    said, _ = stream.communicate()
    if stream.returncode:
        raise RuntimeError(f"the stream ended with {stream.returncode}:\n{said}")
    return samples


def _sample(place: Place, stream: subprocess.Popen[str], tasks: dict[int, float]) -> _Sample:
    """A sample; `tasks` is brought up to date: the seconds of each thread of tasks that ever was."""
    python, java = psutil.Process(stream.pid), java_of(stream)
    for thread in java.threads():
        if _name_of(java.pid, thread.id).startswith(_TASKS):
            tasks[thread.id] = thread.user_time + thread.system_time
    return _Sample(
        manifests=place.committed(),
        python=sum(python.cpu_times()[:2]),
        java=sum(java.cpu_times()[:2]),
        tasks=sum(tasks.values()),
        python_memory=python.memory_info().rss,
        java_memory=java.memory_info().rss,
    )


def _name_of(process: int, thread: int) -> str:
    try:
        return Path(f"/proc/{process}/task/{thread}/comm").read_text()
    except OSError:  # it has ended
        return ""


def _cost(samples: Sequence[_Sample], first: int, last: int) -> _Cost:
    """The cost of one of the manifests from `first` to `last`, by the slope of a straight line."""
    inside = [one for one in samples if first <= one.manifests <= last]
    done = [one.manifests for one in inside]
    python, java, tasks = (np.polyfit(done, [getattr(one, of) for one in inside], 1)[0] for of in _Cost.__annotations__)
    return _Cost(python, java - tasks, tasks)


def _slopes(what: str, samples: Sequence[_Sample], seconds: np.ndarray) -> Iterator[Figure]:
    """The first against the last tenth of the small manifests."""
    tenth = max(len(seconds) // 10, 1)
    first, last = median(seconds[:tenth]), median(seconds[-tenth:])
    yield Figure(f"{what}: seconds per manifest, first and last {tenth}", f"{first:.3f}, {last:.3f} s")
    whole = samples[-1].manifests
    costs = [_cost(samples, whole * tenths // 10, whole * (tenths + 3) // 10) for tenths in (1, 7)]
    yield Figure(f"{what}: CPU per manifest, early and late", ", ".join(cost.per(1, "ms") for cost in costs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The ceiling of one driver.")
    parser.add_argument("--manifests", type=int, default=_MANIFESTS)
    parser.add_argument("--slots", type=int, nargs="+", default=_SLOTS)
    asked = parser.parse_args()
    print_figures(measure(asked.manifests, asked.slots))
