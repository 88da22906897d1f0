"""What tests of the whole stream share: a place with everything in it, programs as processes, and the tables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from streaming.__main__ import main
from streaming.output.manifests import prepare_log
from streaming.output.tables import Tables
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.models import promote_model

PROJECT = Path(__file__).resolve().parents[2]

ONE_TASK = ("--master", "local[1,4]")
"""Each slot for a task takes a worker, which starts in a second; tests share the cores anyway."""

TWO_TASKS = ("--master", "local[2,4]")
"""For tests of what tasks do beside one another."""


@dataclass(frozen=True)
class Place:
    """An input, a registry with a model, and an output that nothing was written to yet."""

    root: Path

    @property
    def source(self) -> Path:
        return self.root / "in"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def output(self) -> Path:
        return self.root / "out"

    @property
    def checkpoint(self) -> Path:
        return self.output / "_checkpoint"

    def arguments(self, verb: str, *more: str) -> list[str]:
        """The command line of a verb of the stream here: files need not settle, and there is one task at a time."""
        places = ["--input", str(self.source), "--models", str(self.models), "--output", str(self.output)]
        return [verb, *places, *ONE_TASK, "--settle", "0s", "--log-format", "text", *more]

    def put(self, *pictures: Path, folder: str = "apple") -> list[str]:
        """Copy pictures into the input, each appearing whole; returns their paths there."""
        (self.source / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "arriving").mkdir(exist_ok=True)
        paths = []
        for picture in pictures:
            target = self.source / folder / picture.name
            shutil.copy(picture, self.root / "arriving" / picture.name)
            (self.root / "arriving" / picture.name).rename(target)
            paths.append(str(target))
        return paths

    def rows(self, table: str = "features") -> pa.Table:
        """All rows of a table, read as anybody would, sorted by path."""
        return ds.dataset(self.output / table, format="parquet", partitioning="hive").to_table().sort_by("path")

    def counted(self) -> Counter[str]:
        """How often each picture stands in features and quarantine together, by path."""
        paths = [path for table in ("features", "quarantine") for path in self.rows(table).column("path").to_pylist()]
        return Counter(paths)

    def has(self, paths: Iterable[str]) -> bool:
        """Whether each picture is in features or quarantine; how many manifests they came in is up to the stream."""
        return self.committed() > 0 and self.counted().keys() >= set(paths)

    def featurized(self) -> list[str]:
        """The paths in the table of features, sorted."""
        return list(self.rows().column("path").to_pylist())

    def embedded(self) -> list[str]:
        """The paths in the table of embeddings, sorted."""
        return list(self.rows("embeddings").column("path").to_pylist())

    def committed(self) -> int:
        """How many manifests are done."""
        return len(list((self.output / "features").glob("date=*/2*.parquet")))

    def logged(self) -> list[Path]:
        """The manifests in the log."""
        return sorted((self.output / "_manifests").glob("2*.json"))

    def promote_another(
        self, seed: int, backbone: bytes | None = None, held_back: bundle.HeldBackFigures | None = None
    ) -> str:
        """Promote a model of the same backbone, or another, with a random projection; returns its version."""
        registry = Registry(open_folder(str(self.models)))
        backbone = backbone or registry.open(registry.current()).file(bundle.BACKBONE)
        return promote_model(self.models, backbone, k=4, seed=seed, held_back=held_back)


def begin(output: Folder) -> None:
    """What a stream does first with its output."""
    Tables(output).prepare()
    prepare_log(output)


_started: list[subprocess.Popen[str]] | None = []  # None forbids it


def kill_started() -> None:
    """Kill the programs that still run, or they would disturb other tests."""
    while _started:
        with _started.pop() as process:
            process.kill()


def start(program: str, arguments: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """A program as a process of its own, as a user starts it."""
    assert _started is not None, "this test needs the fixture `programs`, which has it marked"
    process = subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _started.append(process)
    return process


def run(program: str, arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A program as a process, run to its end; stdout holds all that it said."""
    process = start(program, arguments, **environment)
    said, _ = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, said, "")


def replay(place: Place, *more: str) -> int:
    """Replay in this process; returns the exit code."""
    return main(place.arguments("replay", *more))


def end(process: subprocess.Popen[str]) -> str:
    """Wait for a program to end; returns what it said."""
    said, _ = process.communicate(timeout=300)
    return said
