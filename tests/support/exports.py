"""Exports in this process, by this process or by Spark, and what they have made."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from streaming.__main__ import main as stream
from streaming.export import compaction
from streaming.export.record import latest
from streaming.storage.folder import Folder


def export_arguments(output: Folder, to: Folder, *more: str) -> list[str]:
    """The command line of an export."""
    return ["export", "--output", output.root, "--to", to.root, "--master", "local[2,4]", *more]


def table(folder: str | Path) -> pa.Table:
    """All rows of a table or a snapshot, read as anybody would."""
    return ds.dataset(folder, format="parquet", partitioning="hive").to_table()


def named(to: Folder) -> Path:
    """The folder that LATEST names."""
    present = latest(to)
    assert present
    return Path(to.path(present.snapshot))


def files(snapshot: Path) -> dict[str, bytes]:
    """The content of all files of a snapshot."""
    return {str(file.relative_to(snapshot)): file.read_bytes() for file in snapshot.rglob("*") if file.is_file()}


class Asked:
    """Export in this process; returns what it said."""

    def __init__(self, output: Folder, to: Folder, capsys: pytest.CaptureFixture[str]) -> None:
        self._places = (output, to)
        self._capsys = capsys

    def __call__(self, *more: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert stream(export_arguments(*self._places, *more)) == code
        said = self._capsys.readouterr()
        return said.err if code else said.out


class Both:
    """Exports by this process and by Spark, each into a folder of its own."""

    def __init__(self, output: Folder, folders: tuple[Folder, Folder], capsys: pytest.CaptureFixture[str]) -> None:
        self._output = output
        self._folders = folders
        self._capsys = capsys

    def __call__(self, *more: str, code: int = 0) -> list[str]:
        """What they say; the next time, each goes on in the folder of the other."""
        said = []
        for folder, most in zip(self._folders, (compaction.FILES_HERE, 0), strict=True):
            with pytest.MonkeyPatch.context() as context:
                context.setattr(compaction, "FILES_HERE", most)
                said.append(Asked(self._output, folder, self._capsys)(*more, code=code))
        self._folders = (self._folders[1], self._folders[0])
        return said

    def snapshots(self) -> list[Path]:
        """The latest of each."""
        return [named(folder) for folder in self._folders]
