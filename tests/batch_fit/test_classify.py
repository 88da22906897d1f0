"""A fit with a classifier: one model for stream and Spark, an honest measure, and one line where it cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.ml import PipelineModel
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import SparkSession
from pyspark.sql.functions import array_max, col

from batch_fit.__main__ import main
from batch_fit.classes import FEWEST, MOST_LABELS, Classes, Holdout
from batch_fit.held_back import is_held_back
from conf.errors import InputError, SettingsError
from streaming.__main__ import main as stream
from streaming.api import load_model
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import identity_of
from streaming.storage.locations import open_folder
from tests.support.pages import block
from tests.support.samples import held_back_names, write_samples
from tests.support.streams import PROJECT, Place


def _fit(place: Place, *more: str) -> int:
    weights = place.root / "backbone.tflite"
    if not weights.exists():
        registry = _registry(place)
        weights.write_bytes(registry.open(registry.current()).file(bundle.BACKBONE))
    arguments = ("--models", str(place.models), "--master", "local[2,4]", "--log-format", "text")
    given = more if "--embeddings" in more else ("--input", str(place.source), "--weights", str(weights), *more)
    return main(["fit", *arguments, "--k", "5", *given])


def _registry(place: Place) -> Registry:
    return Registry(open_folder(str(place.models)))


def _current(place: Place) -> bundle.Bundle:
    return _registry(place).open(_registry(place).current())


def test_stream_and_spark_predict_the_same_label(
    place: Place, new_session: Callable[[], SparkSession], capsys: pytest.CaptureFixture[str]
) -> None:
    """The pipeline, loaded by itself, says what the stream writes; labels with few pictures are left out and named."""
    pictures = write_samples(place.source, pictures=80, classes=4, broken=2).pictures
    for picture, name in zip(pictures[:8:4], held_back_names(pictures[0]), strict=False):  # of one label
        picture.rename(name)  # or there may be none, or a single one, to tell the accuracy
    rare = place.source / "Rare"
    rare.mkdir()
    for file in sorted((place.source / "Banana").glob("0*.jpg"))[: FEWEST - 1]:
        shutil.copy(file, rare)
    shutil.copy(file, place.source / "stray.jpg")
    saved = place.root / "saved"
    assert _fit(place, "--classify", "--save-features", str(saved)) == 0
    said = capsys.readouterr().out
    model = _current(place)
    classifier, figures = model.classifier(), model.manifest.classifier
    assert classifier
    assert figures
    assert figures.accuracy is not None
    assert len(classifier.labels) == figures.classes == 4
    assert figures.left_out == ("Rare",)
    assert f"classes      4, accuracy {figures.accuracy:.1%} on {figures.pictures} held-out pictures" in said
    assert "left out     1 with fewer than 10 pictures: Rare" in said
    report = model.file(bundle.REPORT).decode()
    assert "<h2>Classes</h2>" in report
    assert "data:image/jpeg" in report
    assert stream(place.arguments("replay")) == 0
    rows = place.rows()
    for features, label, confidence in zip(
        *(rows.column(name) for name in ("features", "predicted_label", "confidence")), strict=True
    ):
        expected, sure = classifier.apply(features.values.to_numpy())
        assert label.as_py() == expected
        assert confidence.as_py() == np.float32(sure)
    _assert_the_door_gives(rows, place)
    known = [path for path in rows.column("path").to_pylist() if "/Rare/" not in path and "stray" not in path]
    right = rows.filter(pa.array([path in known for path in rows.column("path").to_pylist()]))
    share = np.mean(right.column("label").to_numpy() == right.column("predicted_label").to_numpy())
    assert share > 0.6  # of the pictures that it was fitted to; the backbone's weights are random
    spark = new_session()
    frame = (
        spark.read.parquet(f"file://{saved}").orderBy("path").withColumn("features", array_to_vector(col("features")))
    )
    told = PipelineModel.load(f"file://{place.models}/{model.version}/pipeline").transform(frame)
    theirs = told.select("path", "predicted_label", array_max(vector_to_array(col("probability"))).alias("sure"))
    table = theirs.toArrow()
    assert table.column("path").to_pylist() == rows.column("path").to_pylist()
    assert table.column("predicted_label").to_pylist() == rows.column("predicted_label").to_pylist()
    np.testing.assert_allclose(table.column("sure"), rows.column("confidence"), atol=1e-6)
    _assert_the_readme_loads_it(spark, rows, place, model.version)


def _assert_the_door_gives(rows: pa.Table, place: Place) -> None:
    """What the workers of Spark have written, to the bit."""
    served, embedded = load_model(str(place.models)), place.rows("embeddings")
    assert embedded.column("path").equals(rows.column("path"))
    for row, embedding in zip(rows.to_pylist(), embedded.column("embedding").to_pylist(), strict=True):
        one = served.featurize(row["path"])
        assert one.features.tobytes() == np.array(row["features"], np.float32).tobytes()
        assert one.embedding.tobytes() == np.array(embedding, np.float32).tobytes()
        said = (one.predicted_label, one.confidence, one.reconstruction_error, one.model)
        assert said == tuple(
            row[name] for name in ("predicted_label", "confidence", "reconstruction_error", "model_version")
        )


def _assert_the_readme_loads_it(spark: SparkSession, rows: pa.Table, place: Place, version: str) -> None:
    """Its lines, with full paths, since the working folder of Spark is where the JVM was started."""
    lines = block((PROJECT / "README.md").read_text(encoding="utf-8"), "python", "PipelineModel")
    lines = lines.replace('"table/', f'"{place.output}/').replace("models/VERSION", f"{place.models}/{version}")
    [backbone] = set(place.rows("embeddings").column("backbone").to_pylist())
    assert backbone == Registry(open_folder(str(place.models))).open(version).manifest.backbone
    lines = lines.replace("'BACKBONE'", f"'{backbone}'")
    names: dict[str, Any] = {"spark": spark}
    exec(lines.replace("\nPipelineModel", "\nmade = PipelineModel").replace(".show()", ""), names)
    made = names["made"].orderBy("path").select(vector_to_array(col("pca")).alias("pca")).toArrow()
    features = [row["features"] for row in rows.to_pylist()]
    np.testing.assert_allclose(made.column("pca").to_pylist(), features, rtol=1e-4, atol=1e-4)


def test_it_is_the_same_on_embeddings(place: Place) -> None:
    """To rounding, and with the same held-out pictures; a model without --classify has no classifier.

    Pictures directly in the input have no label, though their rows have the name of the input.
    """
    samples = write_samples(place.source, pictures=60, classes=3, broken=1).pictures
    for number, picture in enumerate(samples[:12]):
        picture.rename(place.source / f"{number}.jpg")
    assert stream(place.arguments("replay", "--max-pictures", "25")) == 0
    assert place.rows().column("predicted_label").null_count == 60
    assert _fit(place, "--classify") == 0
    on_pictures = _current(place)
    assert _fit(place, "--classify", "--embeddings", str(place.output)) == 0
    on_embeddings = _current(place)
    assert on_pictures.version != on_embeddings.version
    _assert_alike(on_pictures.manifest.classifier, on_embeddings.manifest.classifier)
    one, other = on_pictures.classifier(), on_embeddings.classifier()
    assert one
    assert other
    assert one.labels == other.labels
    assert len(one.labels) == 3
    np.testing.assert_allclose(one.coefficients, other.coefficients, atol=0.02 * np.abs(one.coefficients).max())
    assert stream(["export", "--output", str(place.output), "--to", str(place.root / "to")]) == 0
    exported = pq.read_table(next((place.root / "to").glob("*/date=*/*.parquet")), partitioning=None)
    assert set(exported.column("model_version").to_pylist()) == {on_embeddings.version}
    for row in exported.to_pylist():
        label, confidence = other.apply(np.array(row["features"], np.float32))
        assert (row["predicted_label"], row["confidence"]) == (label, np.float32(confidence))
    assert _fit(place) == 0
    assert _current(place).classifier() is None
    assert _current(place).manifest.classifier is None


def _assert_alike(one: bundle.ClassifierFigures | None, other: bundle.ClassifierFigures | None) -> None:
    """Of two fits to the same features; rounding may put a picture on the other side of a border."""
    assert one
    assert other
    assert one.model_dump(exclude={"accuracy"}) == other.model_dump(exclude={"accuracy"})
    assert one.accuracy == pytest.approx(other.accuracy, abs=1.5 / max(one.pictures, 1))


def test_what_cannot_be_classified_is_one_line_and_costs_nothing(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One class, no labels, a base: refused before a picture is read, and no model is made."""
    monkeypatch.setattr("batch_fit.gather.featurize", None)
    before = _registry(place).versions()

    def said(code: int, *more: str) -> str:
        assert _fit(place, "--classify", *more) == code
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: fit.")
        return error

    [*files] = write_samples(place.source, pictures=12, classes=1, broken=0).pictures
    assert "needs two labels with 10 pictures or more, and only 'Apple Red' of 1 has so many" in said(3)
    for file in files:
        file.rename(place.source / file.name)
    assert f"no labels, as all pictures lie directly in {place.source}; give each label a folder" in said(3)
    assert "leave out --from" in said(2, "--from", before[0].version)
    assert _fit(place, "--holdout", "prefix") == 2
    told = capsys.readouterr().err.strip()
    assert told == (
        "error: fit.holdout: a classifier is measured by prefix, and this fit has none; "
        "give --classify, or leave out --holdout"
    )
    assert _registry(place).versions() == before


def test_a_refit_keeps_the_classifier(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a flag, as a schedule does it: beside the current model, and added to one; pictures alone do not."""
    arriving = [
        write_samples(place.root / name, pictures=30, classes=3, broken=0).pictures for name in ("first", "then")
    ]

    def arrive(files: list[Path]) -> None:
        for number, file in enumerate(files):
            day = place.source / f"{file.parents[1].name}-{number % 2}" / file.parent.name
            day.mkdir(parents=True, exist_ok=True)
            file.rename(day / file.name)
        assert stream(place.arguments("replay")) == 0

    arrive(arriving[0])
    embeddings = ("--embeddings", str(place.output))
    assert _fit(place, *embeddings) == 0
    assert _current(place).classifier() is None
    assert _fit(place, "--classify", "--holdout", "folder", *embeddings) == 0
    first = _current(place)
    arrive(arriving[1])
    assert _fit(place, *embeddings) == 0
    whole = _current(place)
    assert whole.manifest.classifier
    assert (whole.manifest.classifier.classes, whole.manifest.classifier.holdout) == (3, "folder")
    assert _fit(place, *embeddings, "--from", first.version, "--promote", "never") == 0
    added = _registry(place).open(_registry(place).versions()[-1].version)
    _assert_alike(added.manifest.classifier, whole.manifest.classifier)
    one, other = added.classifier(), whole.classifier()
    assert one
    assert other
    assert one.labels == other.labels
    assert len(one.labels) == 3
    np.testing.assert_allclose(one.coefficients, other.coefficients, atol=0.02 * np.abs(one.coefficients).max())
    assert _fit(place, *embeddings, "--from", "current", "--holdout", "picture") == 0
    assert _current(place).manifest.from_version == whole.version
    assert _current(place).manifest.classifier
    capsys.readouterr()
    assert _fit(place, "--from", "current") == 0
    assert "has a classifier, and this one will have none: give --classify without --from" in capsys.readouterr().err
    assert _current(place).manifest.classifier is None
    assert _fit(place, *embeddings, "--from", whole.version, "--no-classify") == 0
    assert _current(place).manifest.classifier is None


def _paths(*counts: tuple[str, int]) -> list[str]:
    return [f"/in/{label}/{number}.jpg" for label, count in counts for number in range(count)]


def test_classes_are_refused_by_number() -> None:
    """And those with few pictures do not count."""
    classes = Classes.of(_paths(("b", 10), ("a", 11), ("c", 9)), "/in")
    assert (classes.labels, classes.left_out) == (("a", "b"), {"c": 9})
    labels = [classes.label(f"/in/{name}") for name in ("a/1.jpg", "c/1.jpg", "1.jpg")]
    assert labels == ["a", None, None]
    with pytest.raises(InputError, match="none of 2 has so many"):
        Classes.of(_paths(("a", 9), ("b", 1)), "/in")
    with pytest.raises(InputError, match="5,000 labels have 10 pictures or more, and a classifier takes 1,000 at most"):
        Classes.of(_paths(*((f"{number}", 10) for number in range(5000))), "/in")
    assert len(Classes.of(_paths(*((f"{number}", 10) for number in range(MOST_LABELS))), "/in").labels) == MOST_LABELS


def _held_out(paths: list[str], kind: str) -> set[str]:
    classes = Classes.of(paths, "/in")
    held_out = Holdout.of(paths, classes, kind, lambda path: is_held_back(identity_of(path)))
    return {path for path in paths if (label := classes.label(path)) is not None and held_out.has(label, path)}


def test_single_pictures_are_held_out_by_the_hash_of_their_paths() -> None:
    paths = _paths(("a", 200), ("b", 200), ("c", 9))
    held_out = _held_out(paths, "picture")
    assert held_out == {path for path in paths if "/c/" not in path and is_held_back(identity_of(path))}
    assert 10 < len(held_out) < 80


def test_whole_days_are_held_out() -> None:
    """By the folder above that of the label: the same tenth of the days for each label, whatever is in them."""
    paths = [f"/in/{day}/{label}/{n}.jpg" for day in range(20) for label in "ab" for n in range(3)]
    held_out = _held_out(paths, "folder")
    days = {path.split("/")[2] for path in held_out}
    assert len(days) == 2
    assert held_out == {path for path in paths if path.split("/")[2] in days}


def test_whole_series_of_names_are_held_out() -> None:
    """Names that agree up to the numbers at their end; a label with one series keeps it."""
    series = ("r_{}_100", "r2_{}_100", "{}_100", "IMG{:04}", "IMG_20260131_{:04}")
    paths = [f"/in/a/{name.format(number)}.jpg" for name in series for number in range(5)]
    paths += [f"/in/b/b-{number}.jpg" for number in range(10)]
    held_out = _held_out(paths, "prefix")
    found = {path.rpartition("/")[2].rstrip("0123456789.jpg").split("_")[0].rstrip("0123456789") for path in held_out}
    assert len(held_out) in (5, 10)  # the last two of the series are one: IMG
    assert len(found) == 1
    assert not any("/b/" in path for path in held_out)


@pytest.mark.parametrize("kind", ["folder", "prefix"])
def test_a_holdout_without_series_is_refused(kind: str) -> None:
    with pytest.raises(SettingsError, match=f"fit.holdout: by {kind}, each label has one series only"):
        _held_out(_paths(("a", 10), ("b", 10)), kind)


def test_series_that_are_held_out_are_measured(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of its pictures, by a classifier that is not the one that is served."""
    for number, file in enumerate(write_samples(place.source, pictures=60, classes=3, broken=0).pictures):
        day = place.source / f"day-{number // 15}" / file.parent.name
        day.mkdir(parents=True, exist_ok=True)
        file.rename(day / file.name)
    assert _fit(place, "--classify", "--holdout", "folder", "--save-features", str(place.root / "saved")) == 0
    figures = _current(place).manifest.classifier
    assert figures
    assert (figures.holdout, figures.pictures) == ("folder", 15)
    assert "on 15 held-out pictures (--holdout folder)" in capsys.readouterr().out
    assert pq.read_table(place.root / "saved").num_rows == 60
