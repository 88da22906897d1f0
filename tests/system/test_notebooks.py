"""The notebooks that are committed: in step with their texts, small, and of no machine; test_demo.py executes one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import boto3
import duckdb
import jupytext
import nbformat
import pytest
from botocore.stub import Stubber
from PIL import Image

from streaming.__main__ import main as stream
from streaming.output.manifests import prepare_log
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.notebooks import NOTEBOOKS, PICTURE, as_notebook
from tests.support.small_table import commit_features, reject

_NAMES = sorted(file.stem for file in NOTEBOOKS.glob("*.py"))


def _committed(name: str) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = jupytext.read(NOTEBOOKS / f"{name}.ipynb")
    return notebook


@pytest.mark.parametrize("name", _NAMES)
def test_a_notebook_and_its_text_are_in_step(name: str) -> None:
    """If not: python -m tests.support.notebooks."""

    def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
        return [(cell.cell_type, cell.source) for cell in notebook.cells]

    assert cells(_committed(name)) == cells(as_notebook(name))


def test_each_notebook_has_a_text() -> None:
    assert sorted(file.stem for file in NOTEBOOKS.glob("*.ipynb")) == _NAMES == ["cluster", "explore"]


def test_what_is_committed_is_small_and_of_no_machine() -> None:
    """Its outputs are of all cells, in order, and without complaints."""
    text = (NOTEBOOKS / "explore.ipynb").read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert not re.search(r"/(?:home|root|tmp|Users|work)/", text)
    code = [cell for cell in _committed("explore").cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) >= 5


def test_the_picture_of_the_readme_is_small() -> None:
    assert PICTURE.stat().st_size < 150_000
    with Image.open(PICTURE) as picture:
        assert (picture.format, picture.width) == ("PNG", 1000)


@pytest.fixture
def cluster(output: Folder, tmp_path: Path) -> dict[str, Any]:
    """The names that the cells of cluster.py define, over an export of two days."""
    prepare_log(output)
    two = {"/p/a/1.jpg": [1, 2], "/p/a/2.jpg": [2, 3]}
    commit_features(output, 0, two, predicted_label=["a", "b"], confidence=[0.9, 0.6], sha256=["00", "00"])
    commit_features(output, 1, {"/p/b/1.jpg": [3, 4]}, predicted_label=["b"], confidence=[0.7], sha256=["01"])
    reject(output, 1, ["/p/b/broken.jpg"])
    to = tmp_path / "snapshots"
    assert stream(["export", "--output", output.root, "--to", str(to), "--model", "as-ingested"]) == 0
    names: dict[str, Any] = {}
    for cell in as_notebook("cluster").cells:
        if cell.cell_type == "code" and not re.match(r"ask\(|from pyspark", cell.source):
            source = re.sub(r'^OUTPUT = ".*"', f'OUTPUT = "{tmp_path}"', cell.source, flags=re.MULTILINE)
            exec(source.replace("table.nearest", "nearest = table.nearest"), names)
    return names


def _by_duckdb(sql: str, output: Folder, snapshots: Folder) -> list[tuple[Any, ...]]:
    """The answer over views that are called as the tables in Athena, with `date` as text."""
    connection = duckdb.connect()
    connection.execute("CREATE SCHEMA picture_features")
    for name, folder in (("snapshot", f"{snapshots.root}/2*"), ("quarantine", f"{output.root}/quarantine")):
        files = f"read_parquet('{folder}/**/*.parquet', hive_types = {{'date': VARCHAR}}, union_by_name = true)"
        connection.execute(f"CREATE VIEW picture_features.{name} AS SELECT * FROM {files}")
    return connection.execute(sql).fetchall()


def test_the_sql_of_the_cluster_is_answered(cluster: dict[str, Any], output: Folder, tmp_path: Path) -> None:
    """By DuckDB, which shares these words with Athena."""

    def ask(name: str) -> list[tuple[Any, ...]]:
        return _by_duckdb(cluster[name], output, open_folder(str(tmp_path / "snapshots")))

    assert ask("DAYS") == [("2026-01-30", 2, 0.5, 0.5), ("2026-01-31", 1, 0.5, 0.5)]
    assert [row[:3] for row in ask("CONFUSIONS")] == [("a", "b", 1)]
    assert [(row[0], row[1], row[3:]) for row in ask("WORST_OF_EACH_LABEL")][-1] == ("b", "/p/b/1.jpg", (3, 4))
    assert ask("COPIES") == [("00", 2, "/p/a/1.jpg")]
    assert ask("REASONS") == [("corrupt", 1, "2026-01-31")]


def test_the_cluster_notebook_reads_a_snapshot_without_spark(cluster: dict[str, Any]) -> None:
    assert [near.path for near in cluster["nearest"]] == ["/p/a/1.jpg", "/p/a/2.jpg", "/p/b/1.jpg"]


def test_an_answer_of_athena_becomes_a_frame(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By botocore's own description of the service; a query that fails says why."""
    athena = boto3.client("athena", region_name="eu-west-3", aws_access_key_id="test", aws_secret_access_key="test")
    monkeypatch.setattr(boto3, "client", lambda _: athena)
    monkeypatch.setattr(cluster["time"], "sleep", lambda _: None)
    asked = {"QueryString": "SELECT 1", "WorkGroup": "picture-features"}
    this = {"QueryExecutionId": "1"}
    with Stubber(athena) as stub:
        stub.add_response("start_query_execution", this, asked)
        for state in ("RUNNING", "SUCCEEDED"):
            stub.add_response("get_query_execution", {"QueryExecution": {"Status": {"State": state}}}, this)
        cells = [[{"VarCharValue": "label"}, {"VarCharValue": "pictures"}], [{"VarCharValue": "Lime"}, {}]]
        found = {"ResultSet": {"Rows": [{"Data": row} for row in cells]}}
        stub.add_response("get_query_results", found, this)
        assert cluster["ask"]("SELECT 1").to_dict("list") == {"label": ["Lime"], "pictures": [None]}
        failed = {"State": "FAILED", "StateChangeReason": "no such table"}
        stub.add_response("start_query_execution", this, asked)
        stub.add_response("get_query_execution", {"QueryExecution": {"Status": failed}}, this)
        with pytest.raises(RuntimeError, match="Athena: FAILED: no such table"):
            cluster["ask"]("SELECT 1")
