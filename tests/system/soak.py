"""Kills a stream over and over, at every point where it writes, and counts.

    python -m tests.system.soak [KILLS]        # make soak: 60 kills on local paths, and 30 on S3

Each run adds pictures, dies at a chosen point, and leaves the next run to finish what it began. After each kill no
picture may be in the tables twice; after the last, a run to the end must leave each exactly once. Meanwhile a reader
polls the tables and must never see a file that is not whole.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as pq
import pytest

from tests.support.buckets import Bucket, new_bucket
from tests.support.samples import write_samples
from tests.support.scratch import new_place
from tests.support.servers import versitygw
from tests.support.streams import Place, run


@dataclass(frozen=True)
class KillPoint:
    """Where a stream dies: the first arguments of `tests.support.killing`."""

    name: str
    when: str
    method: str
    pattern: str
    nth: int = 1


_TABLES = ("features", "quarantine", "embeddings")

KILL_POINTS = (
    KillPoint("before the lease is taken", "before", "create", "_lease"),
    KillPoint("before a manifest is written", "before", "create", "_manifests/2*"),
    KillPoint("after a manifest is written", "after", "create", "_manifests/2*"),
    KillPoint("while a model is fetched", "after", "read", "*/backbone.tflite"),
    KillPoint("before the embeddings are staged", "before", "create", "_embeddings/*"),
    KillPoint("before the features file", "before", "create", "features/*/2*"),
    KillPoint("after the features file", "after", "create", "features/*/2*"),
    KillPoint("between features and quarantine file", "before", "create", "quarantine/*/2*"),
    KillPoint("after the quarantine file, before Spark's commit", "after", "create", "quarantine/*/2*"),
    KillPoint("before the embeddings are published", "before", "create", "embeddings/*/2*"),
    KillPoint("after the embeddings are published", "after", "create", "embeddings/*/2*"),
    KillPoint("after the staged embeddings are deleted", "after", "delete", "_embeddings/*"),
    KillPoint("in the second micro-batch", "before", "create", "features/*/2*", 2),
    KillPoint("after the record of known pictures is announced", "after", "create", "_known/*"),
    KillPoint("before the record of known pictures", "before", "replace", "_known/*"),
    KillPoint("after the record of known pictures", "after", "replace", "_known/*"),
    KillPoint("after the new epoch has begun", "after", "create", "0*/_begun"),
    KillPoint("before the old epoch is deleted", "before", "delete_tree", "0*"),
    KillPoint("after the old epoch is deleted", "after", "delete_tree", "0*"),
)
"""For local paths and S3. The lease exists after the first run, so its point is reached by a first run only."""

LOCAL_KILL_POINTS = (
    KillPoint("while folded manifests are deleted", "after", "delete", "_manifests/2*", 2),
    KillPoint("while Spark writes offsets", "before", "watch", "{output}/_checkpoint/*/offsets/.*.tmp"),
    KillPoint("while Spark writes a commit", "before", "watch", "{output}/_checkpoint/*/commits/.*.tmp"),
    KillPoint("while Spark writes its log of files", "before", "watch", "{output}/_checkpoint/*/sources/0/.*.tmp"),
)
"""What S3 does in one request, the deletion of many files, and what Spark writes beside the output."""

PER_RUN = 5  # and a broken one: three manifests, of which two make an epoch
MORE = ("--max-pictures", "2", "--epoch-manifests", "2")


class Output(Protocol):
    """What a `Place` and a `Bucket` have in common."""

    def arguments(self, verb: str, *more: str) -> list[str]:
        """The command line of a verb."""

    def counted(self) -> Counter[str]:
        """How often each picture is in the tables."""

    def featurized(self) -> list[str]:
        """The paths in the table of features."""

    def embedded(self) -> list[str]:
        """The paths in the table of embeddings."""


_GLIMPSES = 20
"""How many runs a point may take that is there for a millisecond, in which a busy machine may have no time to look."""


class Soak:
    """One output under fire."""

    def __init__(self, output: Output, root: str, put: Callable[[int], list[str]]) -> None:
        self._output = output
        self._root = root
        self._put = put
        self._paths: list[str] = []
        self._runs = 0
        self.kills: Counter[str] = Counter()

    def kill_at(self, point: KillPoint) -> None:
        """Run until the stream dies at a point, and count."""
        pattern = point.pattern.replace("{output}", self._root)
        trap = [point.when, point.method, pattern, str(point.nth), "streaming"]
        tries = _GLIMPSES if point.method == "watch" else 1
        while True:
            self._paths += self._put(self._runs)
            self._runs += 1
            died = run("tests.support.killing", [*trap, *self._output.arguments("replay", *MORE)])
            tries -= 1
            if died.returncode or not tries:
                break
        assert died.returncode == -9, f"{point.name} was not reached:\n{died.stdout}"
        self.kills[point.name] += 1
        if self._runs > 1:
            assert set(self._output.counted().values()) <= {1}, point.name

    def finish(self) -> None:
        """Run to the end: each picture is there once."""
        done = run("streaming", self._output.arguments("replay", *MORE))
        assert done.returncode == 0, done.stdout
        assert self._output.counted() == dict.fromkeys(self._paths, 1)
        assert self._output.embedded() == self._output.featurized()


def soak_place(place: Place, pictures: Sequence[Path], broken: Sequence[Path]) -> Soak:
    """On local paths."""

    def put(number: int) -> list[str]:
        good = [pictures[(number * PER_RUN + i) % len(pictures)] for i in range(PER_RUN)]
        return place.put(*good, folder=f"run{number}") + place.put(broken[number % len(broken)], folder=f"bad{number}")

    return Soak(place, str(place.output), put)


def soak_bucket(bucket: Bucket, pictures: list[Path], broken: list[Path]) -> Soak:
    """On S3."""

    def put(number: int) -> list[str]:
        good = [pictures[(number * PER_RUN + i) % len(pictures)] for i in range(PER_RUN)]
        return bucket.put(good, f"run{number}") + bucket.put([broken[number % len(broken)]], f"bad{number}")

    return Soak(bucket, bucket.uri("output"), put)


@contextmanager
def polled(tables: Path) -> Iterator[Counter[str]]:
    """Reads each file of the tables once it is there or has changed; each must be whole. Gives numbers of reads."""
    reads: Counter[str] = Counter()
    failures: list[str] = []
    whole: set[tuple[Path, int, int, int]] = set()
    leave = threading.Event()

    def poll() -> None:
        while not leave.wait(0.01):
            for file in [file for table in _TABLES for file in tables.glob(f"{table}/*/*")]:
                try:
                    found = file.stat()
                    identity = (file, found.st_ino, found.st_mtime_ns, found.st_size)
                    if identity in whole:
                        continue
                    reads["rows"] += len(pq.read_table(file, partitioning=None))
                    reads["files"] += 1
                    whole.add(identity)
                except FileNotFoundError:
                    continue
                except Exception as error:  # noqa: BLE001 - whatever a reader meets is a failure of the promise
                    failures.append(f"{file}: {error}")

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        yield reads
    finally:
        leave.set()
        reader.join()
    assert not failures, failures


def main(kills: int = 60) -> None:
    """Kill at random points, two thirds of the time on local paths, and print what was counted."""
    chance = random.Random(0)
    with new_place() as place, tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", folder)
        samples = write_samples(Path(folder) / "samples", pictures=60, classes=6, broken=4)
        broken = list(samples.broken)
        soak = soak_place(place, samples.pictures, broken)
        with polled(place.output) as reads:
            _kill(soak, (*KILL_POINTS, *LOCAL_KILL_POINTS), kills * 2 // 3, chance)
        sys.stdout.write(f"a reader read {reads['files']} files and {reads['rows']} rows meanwhile, all whole\n")
        with versitygw() as store, new_bucket(store, patch) as bucket:
            bucket.put_tree(place.models, "models")
            _kill(soak_bucket(bucket, samples.pictures, broken), KILL_POINTS, kills // 3, chance)


def _kill(soak: Soak, points: Sequence[KillPoint], kills: int, chance: random.Random) -> None:
    first, *others = points
    soak.kill_at(first)
    for _ in range(kills - 1):
        soak.kill_at(chance.choice(others))
    soak.finish()
    for name, count in sorted(soak.kills.items()):
        sys.stdout.write(f"{count:4}  {name}\n")
    sys.stdout.write(f"{soak.kills.total():4}  kills; every picture was there exactly once\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
