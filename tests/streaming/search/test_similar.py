"""Similar pictures: exactly the nearest rows of one model, wherever the table is, and never one that is forgotten."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from conf.aws.connection import S3Connection
from conf.loading import load_settings
from streaming.__main__ import main as stream
from streaming.features.schema import FEATURES, with_all_columns
from streaming.lease.denylist import Entry, add_entry, make_salt
from streaming.output.manifests import prepare_log
from streaming.search import scan, similar
from streaming.search.choices import METRICS, Metric
from streaming.search.query import make_query
from streaming.search.table import choose_model, open_table
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.buckets import Bucket
from tests.support.exports import Asked, named
from tests.support.featurized import featurize_into
from tests.support.small_table import commit, commit_features
from tests.support.streams import PROJECT

NEAR = {
    "/p/a.jpg": [1, 0, 0],
    "/p/b.jpg": [9, 1, 0],
    "/p/c.jpg": [1, 1, 0],
    "/q/d.jpg": [0, 0, 1],
    "/q/e.jpg": [-1, 0, 0],
}


@pytest.fixture
def table(output: Folder) -> Folder:
    prepare_log(output)
    commit_features(output, 0, {path: NEAR[path] for path in list(NEAR)[:3]})
    commit_features(output, 1, {path: NEAR[path] for path in list(NEAR)[3:]})
    return output


class _Asked:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, picture: str, table: str, *more: str) -> dict[str, Any]:
        self._capsys.readouterr()
        assert stream(["similar", picture, "--table", table, "--json", *more]) == 0
        answer: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return answer

    def refusal(self, code: int, picture: str, table: str, *more: str) -> str:
        assert stream(["similar", picture, "--table", table, "--no-wait", *more]) == code
        return self._capsys.readouterr().err


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> _Asked:
    return _Asked(capsys)


def _paths(answer: dict[str, Any]) -> list[str]:
    return [match["path"] for match in answer["matches"]]


def _forget(output: Folder, *paths: str, prefixes: tuple[str, ...] = ()) -> None:
    add_entry(output, Entry.of(paths, prefixes, make_salt(output), datetime.now(UTC)))


def test_the_nearest_rows_come_first_without_the_picture_itself(table: Folder, ask: _Asked) -> None:
    answer = ask("/p/a.jpg", table.root)
    assert _paths(answer) == ["/p/b.jpg", "/p/c.jpg", "/q/d.jpg", "/q/e.jpg"]
    distances = [match["distance"] for match in answer["matches"]]
    assert distances == pytest.approx([1 - 9 / 82**0.5, 1 - 0.5**0.5, 1, 2])
    assert (answer["in_table"], answer["compared"], answer["left_out"]) == (True, 4, 0)
    assert _paths(ask("/p/a.jpg", table.root, "--metric", "euclidean", "-n", "2")) == ["/p/c.jpg", "/q/d.jpg"]


def test_the_text_has_a_line_for_each_picture(table: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert stream(["similar", "/p/a.jpg", "--table", table.root, "-n", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:-1] == [
        "1  0.0061  p  /p/b.jpg",
        "2  0.2929  p  /p/c.jpg",
    ]


def _apart(metric: Metric, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """A distance by its definition, in other words than the code's."""
    first, second = one.astype(np.float64), other.astype(np.float64)
    if metric == "euclidean":
        return math.dist(first, second)
    return float(1 - first @ second / np.sqrt((first @ first) * (second @ second)))


@pytest.mark.parametrize("metric", [*METRICS])
def test_the_search_is_exact_in_whatever_pieces_the_table_is_read(
    metric: Metric, output: Folder, ask: _Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_log(output)
    random = np.random.default_rng(5)
    rows = {f"/r/{number:03}.jpg": random.normal(size=7).astype(np.float32) for number in range(300)}
    rows |= {f"/s/{number:03}.jpg": rows["/r/007.jpg"] for number in range(4)}  # equally near: paths decide
    paths = [*rows]
    for day in range(20):
        commit_features(output, day, {path: rows[path].tolist() for path in paths[day::20]})
    query = rows["/r/100.jpg"]
    expected = sorted((_apart(metric, row, query), path) for path, row in rows.items() if path != "/r/100.jpg")
    for size, together in ((8192, 32), (3, 2)):
        monkeypatch.setattr(scan, "_ROWS_PER_BATCH", size)
        monkeypatch.setattr(scan, "_FILES_TOGETHER", together)
        answer = ask("/r/100.jpg", output.root, "-n", "303", "--metric", metric)
        assert [match["distance"] for match in answer["matches"]] == pytest.approx([one for one, _ in expected])
        assert sorted(_paths(answer)) == sorted(path for _, path in expected)
        assert _paths(ask("/r/100.jpg", output.root, "-n", "10", "--metric", metric)) == _paths(answer)[:10]
        same = [path for path in _paths(answer) if path == "/r/007.jpg" or path.startswith("/s/")]
        assert same == ["/r/007.jpg", *(f"/s/{number:03}.jpg" for number in range(4))]


def test_only_rows_of_one_model_are_compared(table: Folder, ask: _Asked) -> None:
    commit_features(table, 2, {"/q/1.jpg": [1, 2], "/q/2.jpg": [1, 3]}, model="two")
    assert ask("/p/a.jpg", table.root)["left_out"] == 2
    answer = ask("/q/1.jpg", table.root)
    assert (_paths(answer), answer["model"], answer["left_out"]) == (["/q/2.jpg"], "two", 5)
    assert "there is no such picture" in ask.refusal(3, "/p/a.jpg", table.root, "--model", "two")


def test_an_export_is_searched_by_its_root_and_by_its_snapshot(
    table: Folder, ask: _Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = open_folder(str(tmp_path / "exports"))
    Asked(table, to, capsys)()
    first = named(to)
    commit_features(table, 3, {"/p/new.jpg": [1, 0.01, 0]})
    Asked(table, to, capsys)()
    assert _paths(ask("/p/a.jpg", to.root, "-n", "1")) == ["/p/new.jpg"]
    assert ask("/p/a.jpg", to.root)["table"] == str(named(to))
    assert _paths(ask("/p/a.jpg", str(first), "-n", "1")) == ["/p/b.jpg"]
    assert _paths(ask("/p/a.jpg", table.root)) == _paths(ask("/p/a.jpg", to.root))


def test_without_a_table_that_of_the_settings_is_searched(
    table: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stream(["similar", "/p/a.jpg"]) == 2
    assert "--table: is missing" in capsys.readouterr().err
    monkeypatch.setenv("PICTURE_FEATURES_OUTPUT", table.root)
    assert stream(["similar", "/p/a.jpg"]) == 0
    to = open_folder(str(tmp_path / "exports"))
    Asked(table, to, capsys)()
    monkeypatch.setenv("PICTURE_FEATURES_EXPORT__TO", to.root)
    assert stream(["similar", "/p/a.jpg"]) == 0
    assert f"table        {named(to)}\n" in capsys.readouterr().out


def test_what_is_not_a_table_is_refused(
    table: Folder, ask: _Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = open_folder(str(tmp_path / "csv"))
    Asked(table, to, capsys)("--format", "csv")
    assert "is CSV; export with --format parquet" in ask.refusal(2, "/p/a.jpg", to.root)
    assert "is neither an output nor" in ask.refusal(5, "/p/a.jpg", str(tmp_path))
    assert "is neither an output nor" in ask.refusal(5, "/p/a.jpg", f"{table.root}/features")
    empty = open_folder(str(tmp_path / "empty"))
    prepare_log(empty)
    assert "has no rows yet" in ask.refusal(5, "/p/a.jpg", empty.root)
    assert "there is no such picture" in ask.refusal(3, "/p/none.jpg", table.root)


@pytest.mark.parametrize("where", ["output", "export"])
def test_a_forgotten_picture_is_never_found(
    where: str, table: Folder, ask: _Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while its rows are still there: `forget` puts it on the denylist first, and is killed, say."""
    to = open_folder(str(tmp_path / "exports"))
    Asked(table, to, capsys)()
    searched = table.root if where == "output" else to.root
    _forget(table, "/p/b.jpg", prefixes=("/q/",))
    assert _paths(ask("/p/a.jpg", searched)) == ["/p/c.jpg"]
    assert _paths(ask("/p/a.jpg", searched, "-n", "1")) == ["/p/c.jpg"]
    assert "was forgotten" in ask.refusal(3, "/q/d.jpg", searched)


def test_a_picture_that_is_forgotten_during_the_search_is_not_found(
    table: Folder, ask: _Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = scan.details

    def forget_meanwhile(*arguments: Any) -> Any:
        found = read(*arguments)
        _forget(table, "/p/b.jpg")
        return found

    monkeypatch.setattr(similar, "details", forget_meanwhile)
    assert _paths(ask("/p/a.jpg", table.root, "-n", "1")) == ["/p/c.jpg"]


def test_files_without_the_later_columns_are_searched(table: Folder, ask: _Asked) -> None:
    [file, *_] = sorted(Path(table.root).glob("features/date=*/*.parquet"))
    rows = pq.read_table(file, partitioning=None)
    earlier = rows.drop_columns([field.name for field in FEATURES if field.nullable])
    pq.write_table(earlier, file)
    assert with_all_columns(earlier, FEATURES).column("sha256").null_count == 3
    assert _paths(ask("/q/d.jpg", table.root, "-n", "2")) == ["/p/a.jpg", "/p/b.jpg"]


def test_the_latest_rows_of_a_snapshot_are_the_latest_by_their_time(
    output: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rows are in the order of their paths."""
    exports = open_folder(str(tmp_path / "exports"))
    prepare_log(output)
    commit_features(output, 0, {"/z.jpg": [1, 0]}, model="one")
    commit_features(output, 0.1, {"/a.jpg": [1, 0], "/b.jpg": [1, 1]}, model="two")
    Asked(output, exports, capsys)("--model", "as-ingested")
    for place in (output, exports):
        assert choose_model(open_table(load_settings({}), place.root, S3Connection()), None) == "two"


def test_a_picture_whose_row_is_of_another_model_than_the_wanted_one_is_named(table: Folder, ask: _Asked) -> None:
    said = ask.refusal(3, "/p/a.jpg", table.root, "--model", "two")
    assert "/p/a.jpg: its row is of model one, not two, and there is no such picture" in said


def test_a_damaged_file_is_named(table: Folder, ask: _Asked) -> None:
    file = max(Path(table.root).glob("features/date=*/*.parquet"))
    file.write_bytes(file.read_bytes()[:-20])
    assert f"{file} cannot be read" in ask.refusal(5, "/p/a.jpg", table.root)


def test_features_of_another_length_are_refused(table: Folder, ask: _Asked) -> None:
    commit(table, 4, ["/p/odd.jpg"], model="one", k=9)
    assert "a file of the table was changed; restore it" in ask.refusal(5, "/p/a.jpg", table.root)


def test_a_picture_beside_the_table_has_the_same_bits_as_a_row(
    output: Folder, fitted: Path, source: Path, pictures: list[Path], ask: _Asked, tmp_path: Path
) -> None:
    for picture in pictures[:12]:
        (source / picture.parent.name).mkdir(exist_ok=True)
        shutil.copy(picture, source / picture.parent.name / picture.name)
    version = featurize_into(output, fitted, source)
    original = next(source.rglob("*.jpg"))
    copy = tmp_path / "elsewhere.jpg"
    shutil.copy(original, copy)
    table, connection = open_table(load_settings({}), output.root, S3Connection()), S3Connection()
    row, beside = (make_query(load_settings({}), table, str(one), None, connection) for one in (original, copy))
    assert (row.in_table, beside.in_table) == (True, False)
    assert row.features.tobytes() == beside.features.tobytes()
    answer = ask(str(copy), output.root, "-n", "1", "--model", version)
    assert (_paths(answer), answer["in_table"]) == ([str(original)], False)
    assert answer["matches"][0]["distance"] == pytest.approx(0, abs=1e-15)
    assert "there is no such picture that can be read" in ask.refusal(3, str(tmp_path), output.root)
    assert "is not UTF-8, and no table can hold such a path" in ask.refusal(2, "caf\udce9.jpg", output.root)
    copy.write_bytes(copy.read_bytes()[:500])
    assert "cannot be used: corrupt" in ask.refusal(3, str(copy), output.root)
    assert "no model 20260101T000000Z-00000000" in ask.refusal(
        2, str(copy), output.root, "--model", "20260101T000000Z-00000000"
    )
    assert "has no model" in ask.refusal(2, str(copy), output.root, "--models", str(tmp_path / "none"))


def test_a_table_on_s3_is_searched(bucket: Bucket, capsys: pytest.CaptureFixture[str], ask: _Asked) -> None:
    output, to = open_folder(bucket.uri("out")), open_folder(bucket.uri("exports"))
    prepare_log(output)
    commit_features(output, 0, NEAR)
    Asked(output, to, capsys)()
    assert _paths(ask("/p/a.jpg", bucket.uri("out"))) == ["/p/b.jpg", "/p/c.jpg", "/q/d.jpg", "/q/e.jpg"]
    assert _paths(ask("/p/a.jpg", bucket.uri("exports"))) == ["/p/b.jpg", "/p/c.jpg", "/q/d.jpg", "/q/e.jpg"]


_LOADED = """
import runpy, sys
try: runpy.run_module("streaming", run_name="__main__", alter_sys=True)
except SystemExit as end: assert not end.code
print(sorted({"pyspark", "pandas", "tensorflow", "matplotlib", "boto3", "ai_edge_litert"} & {*sys.modules}))
"""


@pytest.mark.parametrize("words", [("similar", "/p/a.jpg"), ("duplicates",)])
def test_searching_loads_neither_spark_nor_tensorflow(words: tuple[str, ...], table: Folder, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LOADED, *words, "--table", table.root, "--html", str(tmp_path / "page.html")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_record_of_known_pictures_tells_in_which_file_a_row_is(
    table: Folder, ask: _Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no more than a hint: rows that it does not know are found, too."""
    names = open_table(load_settings({}), table.root, S3Connection()).files
    looked: list[str] = []
    read = scan._rows_in

    def look(searched: Any, name: str, *more: Any) -> Any:
        looked.append(name)
        return read(searched, name, *more)

    monkeypatch.setattr(scan, "_rows_in", look)
    ask("/q/d.jpg", table.root)
    assert looked == [*names]
    looked.clear()
    manifest = names[1].rpartition("/")[2].removesuffix(".parquet")
    monkeypatch.setattr(scan, "manifests_with", lambda output, path: [manifest])
    ask("/q/d.jpg", table.root)
    assert looked == [names[1]]


def test_an_answer_has_what_is_known_of_a_picture(output: Folder, ask: _Asked) -> None:
    prepare_log(output)
    known: dict[str, Any] = {
        "sha256": ["0" * 64, "1" * 64],
        "captured_at": ["2026-01-31T23:59:59", None],
        "predicted_label": ["kiwi", "fig"],
    }
    commit_features(output, 0, {"/a/1.jpg": [1, 0], "/b/2.jpg": [1, 1]}, confidence=[0.5, 0.75], **known)
    [match] = ask("/b/2.jpg", output.root)["matches"]
    distance = match.pop("distance")
    assert distance == pytest.approx(1 - 0.5**0.5)
    assert match == {
        "rank": 1,
        "path": "/a/1.jpg",
        "label": "a",
        "predicted_label": "kiwi",
        "confidence": 0.5,
        "sha256": "0" * 64,
        "captured_at": "2026-01-31T23:59:59",
    }
