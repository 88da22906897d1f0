"""What tests of the whole stream share: a place with everything in it, programs as processes, and the tables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from streaming.__main__ import main
from streaming.features import bundle
from streaming.features.registry import Registry
from streaming.features.storage import open_folder
from streaming.features.stored import Folder
from streaming.manifests import prepare_log
from streaming.sink import ParquetSink
from tests.models import promote_model

PROJECT = Path(__file__).resolve().parents[1]


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
        """The command line of a verb of the stream here, without waiting for files to settle."""
        places = ["--input", str(self.source), "--models", str(self.models), "--output", str(self.output)]
        return [verb, *places, "--master", "local[2,4]", "--settle", "0s", "--log-format", "text", *more]

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
    ParquetSink(output).prepare()
    prepare_log(output)


def start(program: str, arguments: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """A program as a process of its own, as a user starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(program: str, arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A program as a process, run to its end; stdout holds all that it said."""
    process = start(program, arguments, **environment)
    said, _ = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, said, "")


def replay(place: Place, *more: str) -> int:
    """Replay in this process; returns the exit code."""
    return main(place.arguments("replay", *more))


def end(process: subprocess.Popen[str]) -> str:
    """Wait for a program to end; returns what it said."""
    said, _ = process.communicate(timeout=120)
    return said
