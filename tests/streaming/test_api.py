"""The door for Python: the values of the tables, one model at a time, and no Spark."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from threadpoolctl import threadpool_limits

from conf.errors import InputError, ModelError, NoModelError, OutputError, SettingsError
from streaming.__main__ import main as stream
from streaming.api import load_model, read_table
from streaming.lease.denylist import Entry, add_entry, make_salt
from streaming.output.manifests import prepare_log
from streaming.search import matrix
from streaming.search.choices import METRICS, Metric
from streaming.storage.folder import Folder
from tests.support.buckets import new_bucket_in_process
from tests.support.featurized import featurize_into
from tests.support.small_table import commit_features
from tests.support.streams import PROJECT, Place


@pytest.fixture
def table(output: Folder) -> Folder:
    """Rows of two models."""
    prepare_log(output)
    commit_features(output, 0, {"/p/old.jpg": [1, 2]}, model="one")
    commit_features(output, 1, {"/p/a.jpg": [1, 0, 0], "/p/b.jpg": [9, 1, 0], "/q/c.jpg": [-1, 0, 0]}, model="two")
    return output


def test_the_features_are_those_of_the_table_to_the_bit(place: Place, output: Folder, pictures: list[Path]) -> None:
    """Of a path, a URI and bytes, however many threads BLAS has; a timer of the process stays as it was."""
    place.put(*pictures[:7])
    featurize_into(output, place.models, place.source)
    rows = {row["path"]: row for row in _rows(output)}
    model, read = load_model(str(place.models)), read_table(output.root)
    assert (len(rows), *read.features.shape, str(read.features.dtype)) == (7, 7, model.k, "float32")
    before = signal.setitimer(signal.ITIMER_REAL, 1000)
    for number, (path, features) in enumerate(zip(read.paths, read.features, strict=True)):
        given = (path, Path(path), f"file://{path}", Path(path).read_bytes())[number % 4]
        with threadpool_limits(16):
            one = model.featurize(given)
        assert one.features.tobytes() == features.tobytes() == np.array(rows[path]["features"], np.float32).tobytes()
        assert one.embedding.shape == (1280,)
        assert (one.model, str(one.features.dtype), str(one.embedding.dtype)) == (read.model, "float32", "float32")
        for name in ("reconstruction_error", "predicted_label", "confidence", "width", "height", "sha256"):
            assert getattr(one, name) == rows[path][name], name
    assert signal.setitimer(signal.ITIMER_REAL, *before)[0] > 0


def _rows(output: Folder) -> list[dict[str, Any]]:
    return list(ds.dataset(f"{output.root}/features", format="parquet").to_table().to_pylist())


def test_neither_spark_nor_tensorflow_is_loaded(place: Place, pictures: list[Path]) -> None:
    """Nor what else takes long to import and is not needed, whatever is asked for."""
    script = f"""
import sys
from streaming.api import load_model
load_model({str(place.models)!r}).featurize({str(pictures[0])!r})
print(sorted({{"pyspark", "py4j", "tensorflow", "keras", "matplotlib", "boto3", "tqdm"}} & {{*sys.modules}}))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_a_model_is_the_current_one_or_the_version_that_is_named(place: Place, pictures: list[Path]) -> None:
    first = load_model(str(place.models))
    second = load_model(str(place.models), place.promote_another(seed=1))
    assert load_model(str(place.models)).version == second.version != first.version
    again = load_model(str(place.models), first.version)
    assert (again.version, again.k, second.k, again.labels) == (first.version, 8, 4, ())
    assert np.array_equal(again.featurize(pictures[0]).features, first.featurize(pictures[0]).features)
    assert repr(second) == f"<Model {second.version}: 4 components, 0 labels>"
    with pytest.raises(ModelError, match="'latest' is not a model version"):
        load_model(str(place.models), "latest")
    with pytest.raises(NoModelError, match="no model in"):
        load_model(str(place.source))


def test_a_picture_that_cannot_be_used_says_why(
    fitted: Path, pictures: list[Path], source: Path, tmp_path: Path
) -> None:
    model = load_model(str(fitted))
    whole = pictures[0].read_bytes()
    for content, why in ((b"", "empty: the file has no bytes"), (b"GIF", "not_an_image"), (whole[:300], "corrupt")):
        (source / "100%25.jpg").write_bytes(content)
        for picture, named in ((content, "the picture"), (source / "100%25.jpg", f"{source}/100%25.jpg")):
            with pytest.raises(InputError, match=f"^{named} cannot be used: {why}"):
                model.featurize(picture)
    with pytest.raises(InputError, match=r"/gone\.jpg: there is no such picture"):
        model.featurize(source / "gone.jpg")
    assert model.featurize(whole).width == 100  # it goes on
    (tmp_path / "small.yaml").write_text("imaging: {max_pixels: 9999}")
    with pytest.raises(InputError, match="too_many_pixels"):
        load_model(str(fitted), config=tmp_path / "small.yaml").featurize(whole)


def test_rows_of_several_models_are_read_one_model_at_a_time(table: Folder) -> None:
    with pytest.warns(UserWarning, match="left out: 1 row of other models.*an export has all rows in one"):
        latest = read_table(table.root)
    assert (latest.model, latest.paths, latest.left_out) == ("two", ["/p/a.jpg", "/p/b.jpg", "/q/c.jpg"], 1)
    assert latest.features.tolist() == [[1, 0, 0], [9, 1, 0], [-1, 0, 0]]
    assert repr(latest) == f"<Matrix of {table.root}: 3 rows of model two, 1 row of other models left out>"
    former = read_table(table.root, "one")
    assert (former.paths, former.features.tolist(), former.left_out) == (["/p/old.jpg"], [[1, 2]], 3)
    with pytest.raises(SettingsError, match="no rows of model three, and 4 of others"):
        read_table(table.root, "three")


def test_an_export_has_one_model_and_no_warning(table: Folder, tmp_path: Path) -> None:
    assert stream(["export", "--output", table.root, "--to", str(tmp_path / "to"), "--model", "as-ingested"]) == 0
    assert read_table(str(tmp_path / "to"), "two").paths == ["/p/a.jpg", "/p/b.jpg", "/q/c.jpg"]


def test_what_is_no_table_or_empty_is_said(output: Folder, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is neither an output nor a folder of exports"):
        read_table(str(tmp_path))
    prepare_log(output)
    with pytest.raises(OutputError, match="has no rows yet"):
        read_table(output.root)


def test_a_forgotten_picture_is_not_in_the_matrix(table: Folder) -> None:
    add_entry(table, Entry.of(["/p/a.jpg"], ["/q/"], make_salt(table), datetime.now(UTC)))
    read = read_table(table.root, "two")
    assert (read.paths, read.features.tolist()) == (["/p/b.jpg"], [[9, 1, 0]])


@pytest.mark.parametrize("metric", [*METRICS])
def test_the_nearest_rows_are_those_of_the_verb(
    metric: Metric, output: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same order, also of rows that are equally near, however the matrix is cut."""
    prepare_log(output)
    random = np.random.default_rng(3)
    rows = {f"/r/{number:02}.jpg": random.normal(size=5).astype(np.float32).tolist() for number in range(50)}
    rows |= {f"/a/{number}.jpg": rows["/r/07.jpg"] for number in range(4)}
    commit_features(output, 0, rows)
    assert stream(["similar", "/r/10.jpg", "--table", output.root, "-n", "53", "--metric", metric, "--json"]) == 0
    expected = [(one["path"], one["distance"]) for one in json.loads(capsys.readouterr().out)["matches"]]
    monkeypatch.setattr(matrix, "_ROWS_AT_ONCE", 7)
    read = read_table(output.root)
    itself, *found = read.nearest(np.array(rows["/r/10.jpg"], np.float32), 54, metric)
    assert itself.path == "/r/10.jpg"
    assert [near.path for near in found] == [path for path, _ in expected]
    assert [near.distance for near in found] == pytest.approx([distance for _, distance in expected], abs=1e-12)
    for count in (1, 10, 100):
        assert read.nearest(read.features[7], count, metric) == read.nearest(read.features[7], 54, metric)[:count]


def test_vectors_that_cannot_be_compared_are_refused(
    place: Place, output: Folder, pictures: list[Path], table: Folder
) -> None:
    read = read_table(table.root, "two")
    one = load_model(str(place.models)).featurize(pictures[0])
    with pytest.raises(ValueError, match=f"by model {one.model}, and the rows are by two: .* cannot be compared"):
        read.nearest(one)
    with pytest.raises(ValueError, match=r"shape \(8,\), and a row of the matrix \(3,\)"):
        read.nearest(one.features)
    with pytest.raises(ValueError, match="count: 0 is not allowed"):
        read.nearest(read.features[0], 0)
    with pytest.raises(ValueError, match="'manhattan' is not allowed: cosine or euclidean"):
        read.nearest(read.features[0], metric="manhattan")  # type: ignore[arg-type]


def test_everything_may_be_on_s3(
    place: Place, pictures: list[Path], output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(*pictures[:3])
    featurize_into(output, place.models, place.source)
    with new_bucket_in_process(monkeypatch) as bucket:
        bucket.put_tree(Path(output.root), "output")
        bucket.put_tree(place.models, "models")
        [path, *_] = bucket.put(pictures[:1])
        one = load_model(bucket.uri("models")).featurize(path)
        read = read_table(bucket.uri("output"))
    [near] = read.nearest(one, 1)
    assert (near.path, near.distance) == (str(place.source / "apple" / pictures[0].name), 0)
    assert one.features.tobytes() == read.features[list(read.paths).index(near.path)].tobytes()
