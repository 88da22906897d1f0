"""Export into one model: all pictures whose embeddings were kept, as the stream would give them with that model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streaming.__main__ import main as stream
from streaming.export import rows as rows_of_files
from streaming.export.record import Latest, Snapshot, latest, read_snapshot
from streaming.export.snapshots import snapshots
from streaming.features.backbone import backbone_id
from streaming.output.lineage import Derivative, record
from streaming.output.manifests import table_file
from streaming.output.tables import Tables
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.local_folder import LocalFolder
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet
from tests.support.buckets import Bucket
from tests.support.exports import Asked, Both, export_arguments, files, named, table
from tests.support.models import promote_model
from tests.support.small_table import DAY, commit
from tests.support.streams import Place, begin, replay, run

_BACKBONE = b"a backbone"
_OF_IT = backbone_id(_BACKBONE)
_TEXT = ("--log-format", "text")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A registry with one model of 6 components."""
    folder = tmp_path / "models"
    promote_model(folder, _BACKBONE, k=6, seed=1)
    return folder


@pytest.fixture
def output(tmp_path: Path, models: Path) -> Folder:
    """A table of four days, with rows of the current model, rows that can be put into it, and 3 that cannot."""
    folder = open_folder(str(tmp_path / "out 100%25 [é]"))
    begin(folder)
    record(folder, Derivative("models", str(models)))
    commit(folder, 0, ["/p/b.jpg", "/p/100%25/é ü,\"'.jpg"], backbone=_OF_IT)
    commit(folder, 0, ["/p/a.jpg", "/p/_c.jpg", "/p/d.jpg"], k=5, backbone=_OF_IT)
    commit(folder, 1, ["/q/older.jpg"])
    commit(folder, 1, ["/q/1.jpg"], model=_current(models), k=6)
    commit(folder, 2, ["/r/other backbone.jpg", "/r/another.jpg"], backbone="0123456789abcdef")
    commit(folder, 2, ["/r/1.jpg", "/r/3.jpg", "/r/2.jpg"], model=_current(models), k=6, backbone=_OF_IT)
    commit(folder, 3, [])
    return folder


@pytest.fixture
def to(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "exports"))


@pytest.fixture
def ask(output: Folder, to: Folder, capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(output, to, capsys)


@pytest.fixture
def both(jvm: None, output: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Both:
    return Both(output, (open_folder(str(tmp_path / "one")), open_folder(str(tmp_path / "other"))), capsys)


def _registry(models: Path) -> Registry:
    return Registry(open_folder(str(models)))


def _current(models: Path) -> str:
    return _registry(models).current()


def _rows(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The rows of a table or a snapshot by their paths, of which each has one."""
    rows = table(folder).to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows)
    return by_path


def _check(output: Folder, models: Path, snapshot: Path) -> None:
    """Each row of a snapshot is that of the table, or what the current model makes of its embedding."""
    version = _current(models)
    projection = _registry(models).open(version).projection()
    before, embeddings = _rows(output.path("features")), _rows(output.path("embeddings"))
    for path, row in _rows(snapshot).items():
        expected = before[path]
        if expected["model_version"] != version:
            features, error = projection.apply(np.array(embeddings[path]["embedding"], np.float32))
            projected = {"features": features.tolist(), "reconstruction_error": float(np.float32(error))}
            expected |= {**projected, "model_version": version, "predicted_label": None, "confidence": None}
        assert row == expected


def test_all_rows_become_those_of_the_current_model(output: Folder, models: Path, both: Both) -> None:
    """By this process and by Spark, file by file to the byte; the rest is left out, counted and explained."""
    said = both()
    for text, snapshot in zip(said, both.snapshots(), strict=True):
        assert f"model        {_current(models)}\nrows         9 of 7 manifests\nleft out     3 rows of" in text
        assert "replay their pictures into a new output" in text
        _check(output, models, snapshot)
        to = open_folder(str(snapshot.parent))
        present, described = latest(to), read_snapshot(to, snapshot.name)
        assert present
        assert (present.model, present.rows, present.left_out) == (_current(models), 9, 3)
        assert (described.model, [day.left_out for day in described.days]) == (_current(models), [0, 1, 2, 0])
        paths = pq.read_table(snapshot / f"date={DAY:%Y-%m-%d}", columns=["path"], partitioning=None).column(0)
        assert paths.to_pylist() == sorted(paths.to_pylist())
    one, other = map(files, both.snapshots())
    assert one == other
    both("--format", "csv")
    one, other = map(files, both.snapshots())
    assert one == other
    assert {name.partition("/")[0] for name in one} == {_current(models)}


def test_after_a_change_of_model_all_days_are_new_and_after_pictures_one_is(
    output: Folder, models: Path, to: Folder, ask: Asked
) -> None:
    """Forth and back again; days that are taken over keep the count of rows that they lack."""
    first = _current(models)
    assert f"model        {first}\n" in ask("--dry-run")
    ask()
    of_first = _rows(named(to))
    said = ask()
    assert f"holds 9 rows of {output.path('features')} in model {first} already" in said
    assert "left out     3 rows" in said
    commit(output, 0, ["/p/new.jpg"], backbone=_OF_IT)
    said = ask()
    assert "rows         10 of 8 manifests" in said
    assert "left out     3 rows" in said
    assert "files        3, 2 of them taken over" in said

    second = promote_model(models, _BACKBONE, k=3, seed=2)
    assert "4 days: 8 files of the table" in ask("--dry-run")
    said = ask()
    assert "rows         9 of 8 manifests" in said  # a row of the first model has no embedding
    assert "taken over" not in said
    _check(output, models, named(to))
    assert _registry(models).rollback() == first
    said = ask()
    assert "rows         10 of" in said
    assert "taken over" not in said
    assert {path: row for path, row in _rows(named(to)).items() if path in of_first} == of_first
    assert f"model        {second}\nrows         9 of" in ask("--model", second)
    assert f"model        {first}\nrows         10 of" in ask("--model", "current")


def test_a_day_is_new_when_its_embeddings_have_changed(output: Folder, models: Path, to: Folder, ask: Asked) -> None:
    """Rows go by their paths, wherever these stand in the file, and whatever stands beside them."""
    ask()
    before = _rows(named(to))
    manifest = _manifest_with(output, "/p/a.jpg")
    name = table_file("embeddings", manifest)
    kept, (_, tag) = pq.read_table(pa.BufferReader(output.read(name))), output.read_tagged(name)
    stray = kept.slice(0, 1).set_column(0, kept.schema.field("path"), pa.array(["/p/stray.jpg"]))
    output.replace(name, as_parquet(pa.concat_tables([stray, kept.take([2, 0, 1])])), tag)
    assert "files        3, 2 of them taken over" in ask()
    assert _rows(named(to)) == before
    output.delete(name)
    said = ask()
    assert "rows         6 of" in said
    assert "left out     6 rows" in said
    _check(output, models, named(to))


def test_snapshots_with_rows_that_the_next_one_lacks_are_not_deleted_by_it(
    output: Folder, to: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    """It warns, and the export after it deletes again."""

    def warned(*more: str) -> list[str]:
        assert stream(export_arguments(output, to, *more)) == 0
        return [line for line in capsys.readouterr().err.splitlines() if '"warning"' in line]

    assert warned("--model", "as-ingested") == []
    [warning] = warned("--keep", "1")
    assert "leaves out 3 rows of other models" in warning
    assert "export with --model as-ingested" in warning
    assert len(snapshots(to)) == 2
    assert warned("--keep", "1") == []
    assert len(snapshots(to)) == 1
    commit(output, 1, ["/q/new.jpg"], backbone="0123456789abcdef")  # which no snapshot can have
    assert warned("--keep", "1") == []
    assert len(snapshots(to)) == 1


def test_snapshots_in_one_model_are_not_deleted_because_the_embeddings_are_gone(
    output: Folder, models: Path, to: Folder, ask: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a lifecycle rule ends them: nobody has asked for rows of several models."""
    ask()
    shutil.rmtree(output.path("embeddings"))
    assert stream(export_arguments(output, to, "--keep", "1")) == 0
    said = capsys.readouterr()
    assert "model        as-ingested" in said.out
    assert f"no embeddings any more, and earlier snapshots have all in one ({_current(models)})" in said.err
    assert len(snapshots(to)) == 2
    commit(output, 1, ["/q/new.jpg"])
    ask("--keep", "1", "--model", "as-ingested")
    assert len(snapshots(to)) == 1


@pytest.mark.parametrize("ahead", [0, 2**20])
def test_what_is_deleted_while_it_is_exported_is_named_or_left_out(
    output: Folder, to: Folder, ask: Asked, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a lifecycle rule, after the listing: of the features, and of the embeddings."""
    monkeypatch.setattr(rows_of_files, "_EMBEDDINGS_AHEAD", ahead)
    read, manifest = LocalFolder.read, _manifest_with(output, "/p/a.jpg")
    gone = table_file("features", manifest)

    def delete_first(folder: LocalFolder, name: str) -> bytes:
        if name == gone:
            folder.delete(name)
        return read(folder, name)

    monkeypatch.setattr(LocalFolder, "read", delete_first)
    content = read(open_folder(output.root), gone)  # type: ignore[arg-type] # it is local
    told = ask(*_TEXT, code=5)
    assert f"{gone}: there is no such file: it was deleted while the table was read" in told
    assert latest(to) is None
    output.create(gone, content)
    gone = table_file("embeddings", manifest)
    assert "rows         6 of 7 manifests\nleft out     6 rows" in ask()


def _manifest_with(output: Folder, path: str) -> str:
    for name in output.names("features"):
        if path in pq.read_table(pa.BufferReader(output.read(name))).column("path").to_pylist():
            return Path(name).stem
    raise AssertionError(path)


def test_a_large_file_of_embeddings_is_not_read_ahead(
    output: Folder, models: Path, to: Folder, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows become the same."""
    monkeypatch.setattr(rows_of_files, "_EMBEDDINGS_AHEAD", 0)
    assert "rows         9 of" in ask()
    _check(output, models, named(to))


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_embeddings_are_found_in_a_bucket(
    output: Folder, models: Path, bucket: Bucket, to: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.put_tree(Path(output.root), "out é")
    said = Asked(open_folder(bucket.uri("out é")), to, capsys)()
    assert "rows         9 of 7 manifests\nleft out     3 rows" in said
    _check(output, models, named(to))


def test_a_damaged_file_of_embeddings_is_named(output: Folder, both: Both) -> None:
    """And one whose embeddings have another length; both as a damaged file of features is."""
    name = table_file("embeddings", _manifest_with(output, "/p/a.jpg"))
    rows = pq.read_table(pa.BufferReader(output.read(name)))
    short = pa.array([[1.0, 2.0]] * len(rows), rows.schema.field("embedding").type)
    changed = rows.set_column(1, rows.schema.field("embedding"), short)
    for data, why in ((b"PAR1", "cannot be read: "), (as_parquet(changed), "has embeddings of [2] numbers, not 1280")):
        _, tag = output.read_tagged(name)
        output.replace(name, data, tag)
        said, by_spark = (text.splitlines()[-1].partition(" (details: ")[0] for text in both(*_TEXT, code=5))
        assert said == by_spark
        assert said.startswith(f"error: {output.path(name)} {why}")


def test_without_any_embedding_nothing_is_published(output: Folder, to: Folder, models: Path, ask: Asked) -> None:
    """Unless rows are of the model already."""
    shutil.rmtree(output.path("embeddings"))
    assert "rows         4 of 7 manifests\nleft out     8 rows" in ask("--model", "current")
    present = latest(to)
    promote_model(models, _BACKBONE, k=2, seed=3)
    said = ask("--model", "current", *_TEXT, code=5)
    assert "none has an embedding of its backbone; nothing was published; export with --model as-ingested" in said
    assert latest(to) == present
    assert "model        as-ingested\nrows         12 of" in ask()


def test_rows_stay_as_ingested_where_that_is_asked_for(output: Folder, to: Folder, ask: Asked) -> None:
    """And where the output has no embeddings; a snapshot of an earlier release is up to date then."""
    expected = _rows(output.path("features"))
    ask("--model", "as-ingested")
    assert _rows(named(to)) == expected
    for name in output.names("embeddings"):  # those of forgotten pictures
        kept, (_, tag) = pq.read_table(pa.BufferReader(output.read(name))), output.read_tagged(name)
        output.replace(name, as_parquet(kept.slice(0, 0)), tag)
    assert "nothing new" in ask()
    _as_by_an_earlier_release(to)
    assert "holds all 12 rows" in ask()
    assert "nothing new" in ask("--dry-run")


def _as_by_an_earlier_release(to: Folder) -> None:
    """Take the keys of models out of the record and LATEST."""
    present = latest(to)
    assert present
    described = read_snapshot(to, present.snapshot)
    days = [day.model_dump(exclude={"left_out"}) for day in described.days]
    older = {**described.model_dump(mode="json", exclude={"model", "days"}), "days": days}
    assert Snapshot.model_validate(older) == described
    assert Latest.model_validate(present.model_dump(exclude={"model", "left_out"})) == present


def test_a_model_that_cannot_be_found_is_answered_in_one_line(
    output: Folder, models: Path, tmp_path: Path, ask: Asked
) -> None:
    """Before anything is written."""
    assert "is not a model version" in ask("--model", "newest", *_TEXT, code=4)
    said = ask("--model", "20260101T000000Z-00000000", *_TEXT, code=4)
    assert "the registry has no such model" in said
    record(output, Derivative("models", str(tmp_path / "empty")))
    said = ask(*_TEXT, code=2)
    assert f"has used models of {tmp_path / 'empty'}, {models}; give --models URI, or --model as-ingested" in said
    assert "no model in" in ask("--models", str(tmp_path / "empty"), *_TEXT, code=4)
    stream_has_used = models / str(Tables(output).latest_model())
    stream_has_used.mkdir(exist_ok=True)
    (stream_has_used / "manifest.json").touch()
    assert "rows         9 of" in ask()
    shutil.rmtree(output.path("_derivatives"))
    assert "does not say whose models it has used; give --models URI" in ask("--dry-run", *_TEXT, code=2)
    (models / "CURRENT").write_text("{}")
    assert "CURRENT cannot be read" in ask("--models", str(models), *_TEXT, code=4)


def test_forgotten_pictures_leave_the_snapshot(output: Folder, to: Folder, ask: Asked) -> None:
    """Its counts stay true, and the next one does not have them either."""
    ask()
    assert stream(["forget", "/p/a.jpg", "/q/older.jpg", "--output", output.root, "--master", "local[2,4]"]) == 0
    present = latest(to)
    assert present
    assert (present.rows, present.left_out) == (8, 3)
    assert "/p/a.jpg" not in _rows(named(to))
    assert "rows         8 of 7 manifests\nleft out     2 rows" in ask()
    assert "/p/a.jpg" not in _rows(named(to))


@pytest.mark.usefixtures("jvm", "programs")
def test_the_rows_are_those_of_a_replay_with_the_model(place: Place, pictures: list[Path], backbone: bytes) -> None:
    """To the last bit; and back again."""
    first = _current(place.models)
    place.put(*pictures[:12])
    assert replay(place, "--max-pictures", "5") == 0
    second = promote_model(place.models, backbone, k=300, seed=5)
    place.put(*pictures[12:16], folder="later")
    assert replay(place) == 0
    to = open_folder(str(place.root / "exports"))
    for version in (second, first):
        fresh = Place(place.root / version)
        shutil.copytree(place.models, fresh.models)
        arguments = fresh.arguments("replay", "--input", str(place.source))
        assert stream(arguments) == 0
        done = run("streaming", export_arguments(open_folder(str(place.output)), to))
        assert done.returncode == 0, done.stdout
        _same_features(fresh.rows(), table(named(to)).sort_by("path"), version)
        if version == second:
            assert _registry(place.models).rollback() == first


def _same_features(replayed: pa.Table, exported: pa.Table, version: str) -> None:
    assert len(exported) == 16
    assert set(exported.column("model_version").to_pylist()) == {version}
    for name in ("path", "features", "reconstruction_error", "sha256", "width"):
        assert exported.column(name).combine_chunks().equals(replayed.column(name).combine_chunks()), name
