"""Each reader of docs/formats.md reads a table as its lines stand there, while another thread commits to it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.pages import block
from tests.support.small_table import commit, commit_features
from tests.support.streams import PROJECT

_PAGE = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8").partition("\n## Readers, tried\n")[2]
_BY_READER = {
    "pandas": "import pandas\n\nrows",
    "polars": "import polars",
    "pyarrow": "import pyarrow",
    "DuckDB": "import duckdb",
    "Excel": "to_csv",
}
"""What is in the block of a reader alone."""


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Two pictures of the day that the page reads, with one of another model and one of the day before."""
    output = open_folder(str(tmp_path / "table"))
    commit(output, 0, ["/p/before.jpg"])
    commit(output, 1, ["/a/2.jpg", "/a/1.jpg"])
    commit(output, 1, ["/a/other.jpg", "/a/another.jpg"], model="two", k=6)
    monkeypatch.chdir(tmp_path)
    return output


def _run(lines: str, **names: Any) -> dict[str, Any]:
    exec(lines, names)
    return names


def _counts_while_another_commits(lines: str, output: Folder, **names: Any) -> list[int]:
    """The rows that each of some readings has found, while two are added at a time, and those of one afterwards."""
    enough = threading.Event()

    def commit_on() -> int:
        manifests = 0
        while not enough.is_set():
            commit(output, 1, [f"/b/{manifests}.jpg", f"/c/{manifests}.jpg"])
            manifests += 1
        return manifests

    def count() -> int:
        rows = _run(lines, **names)["rows"]
        return rows.count() if names else len(rows)

    counts = [count()]
    with ThreadPoolExecutor(1) as pool:
        committed = pool.submit(commit_on)
        try:
            while len(counts) < 4 or counts[-1] == counts[0]:
                counts.append(count())
        finally:
            enough.set()
    counts.append(count())
    assert counts[-1] == counts[0] + 2 * committed.result()
    return counts


def _assert_whole_manifests(counts: list[int]) -> None:
    assert counts[0] == 4
    assert counts == sorted(counts)
    assert [count % 2 for count in counts] == [0] * len(counts)


@pytest.mark.parametrize("reader", _BY_READER)
def test_a_reader_sees_whole_manifests(reader: str, output: Folder) -> None:
    """Each time at least what it saw before, and the pictures of the day alone."""
    lines = block(_PAGE, "python", _BY_READER[reader])
    _assert_whole_manifests(_counts_while_another_commits(lines, output))


def test_spark_sees_whole_manifests(output: Folder, tmp_path: Path, spark: SparkSession) -> None:
    """The same; its working folder is where the JVM was started."""
    lines = block(_PAGE, "python", "spark.read").replace("table/features", str(tmp_path / "table" / "features"))
    _assert_whole_manifests(_counts_while_another_commits(lines, output, spark=spark))


def test_the_distances_of_duckdb_are_those_of_one_model(output: Folder) -> None:
    """From the first picture of the day, by the angle; the features of another model have another length."""
    commit_features(output, 1, {"/Z/0.jpg": [1, 0], "/Z/turned.jpg": [0, 2], "/Z/same.jpg": [3, 0]}, model="three")
    nearest = _run(block(_PAGE, "python", "import duckdb"))["nearest"].fetchall()
    assert [row[1:] for row in nearest] == [("Z", 0), ("Z", 0), ("Z", 1)]
    assert nearest[2][0] == "/Z/turned.jpg"


def test_excel_is_given_text_and_numbers(output: Folder, tmp_path: Path) -> None:
    """With the mark of UTF-8, which names beyond ASCII need there."""
    commit(output, 1, ["/é/ü, 1.jpg"])
    _run(block(_PAGE, "python", "to_csv"))
    written = tmp_path / "pictures.csv"
    assert written.read_bytes().startswith(b"\xef\xbb\xbfpath,label,")
    frame = pd.read_csv(written, encoding="utf-8-sig")
    assert {"/é/ü, 1.jpg", "/a/1.jpg"} < {*frame["path"]}
