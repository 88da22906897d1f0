"""The fit as a whole, on real Spark: what a person asks of it on the command line, and what the bundle then holds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.ml import PipelineModel
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import SparkSession
from pyspark.sql.functions import col

from batch_fit import job
from batch_fit.__main__ import main
from batch_fit.backbone import Backbone
from batch_fit.forgotten import Draft, delete_if_forgotten
from batch_fit.held_back import Evidence, is_held_back
from batch_fit.sample import choose, read_identities, write_identities
from conf.aws.connection import AWS_DEFAULTS
from conf.errors import InputError, ModelError, StorageError, TransientError
from streaming.__main__ import main as stream
from streaming.features.projection import Projection
from streaming.forget.models import erase_in_model, find_models
from streaming.lease.denylist import Denylist, Entry, add_entry, make_salt
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import identity_of
from streaming.storage.locations import open_folder
from tests.support.models import promote_model
from tests.support.samples import write_samples
from tests.support.streams import Place


@pytest.fixture(autouse=True)
def _converted_once(monkeypatch: pytest.MonkeyPatch, backbone: bytes) -> None:
    """Converting takes 10 s; test_backbone.py and test_readme.py see that it works."""
    monkeypatch.setattr("batch_fit.gather.load_backbone", lambda weights, side: Backbone(backbone, weights, 224))


@pytest.fixture
def empty(tmp_path: Path) -> Place:
    """Places for everything, and no model yet."""
    place = Place(tmp_path / "fit")
    place.source.mkdir(parents=True)
    return place


def _fit(place: Place, *more: str, weights: str = "random:0") -> int:
    arguments = ["fit", "--input", str(place.source), "--models", str(place.models), "--master", "local[2,4]"]
    return main([*arguments, *(("--weights", weights) if weights else ()), *more])


def _registry(place: Place) -> Registry:
    return Registry(open_folder(str(place.models)))


def _current(place: Place) -> bundle.Bundle:
    registry = _registry(place)
    return registry.open(registry.current())


def _projections_agree(one: Projection, other: Projection) -> None:
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.std, other.std, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.components, other.components, atol=1e-6)


def test_fit_and_serve_agree_to_the_bit(
    empty: Place, new_session: Callable[[], SparkSession], capsys: pytest.CaptureFixture[str]
) -> None:
    """The features that the fit saved, projected, are what replay writes; Spark's own pipeline says the same."""
    samples = write_samples(empty.source, pictures=40, broken=4)
    saved, killed = empty.root / "saved", "20260101T000000Z-00000000"
    open_folder(str(empty.models)).create(f"{killed}/{bundle.IDENTITIES}", b"")
    assert _fit(empty, "--k", "5", "--save-features", str(saved)) == 0
    said = capsys.readouterr().out
    served = _current(empty)
    assert served.version in said
    assert {file.name for file in empty.models.iterdir()} - {"_tmp"} == {"CURRENT", served.version, killed}
    assert [file.name for file in (empty.models / killed).iterdir()] == [bundle.MANIFEST]
    assert "40" in said
    assert re.search("held out +.*too few to tell drift", said)
    assert "quarantined  4 (corrupt 2, " in said
    assert (served.manifest.k, served.manifest.pictures, served.manifest.weights) == (5, 40, "random:0")
    raw = pq.read_table(saved).sort_by("path")
    assert raw.schema.names == ["path", "label", "features"]
    assert raw.column("path").to_pylist() == sorted(map(str, samples.pictures))
    assert stream(empty.arguments("replay")) == 0
    rows = empty.rows()
    projection = served.projection()
    for features, projected, error in zip(
        raw.column("features"), rows.column("features"), rows.column("reconstruction_error"), strict=True
    ):
        expected, expected_error = projection.apply(np.array(features.as_py(), np.float32))
        assert expected.tolist() == projected.as_py()
        assert np.float32(expected_error) == error.as_py()
    spark = new_session()  # now, because the programs above stop theirs
    pipeline = PipelineModel.load(f"file://{empty.models}/{served.version}/pipeline")
    frame = spark.read.parquet(f"file://{saved}").orderBy("path")
    vectors = frame.withColumn("features", array_to_vector(col("features")))
    theirs = np.array(pipeline.transform(vectors).select(vector_to_array(col("pca"))).toPandas().iloc[:, 0].tolist())
    ours = np.array(rows.column("features").to_pylist())
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5 * np.abs(ours).max())


def test_adding_to_a_model_gives_what_a_full_fit_would(empty: Place, tmp_path: Path) -> None:
    """--from reads only the pictures that the model has not seen."""
    full = Place(tmp_path / "full")
    everything = write_samples(full.source, pictures=50, broken=1)
    for path in everything.pictures[:30]:
        target = empty.source / path.relative_to(full.source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert _fit(empty, "--variance", "0.8") == 0
    first = _current(empty)
    for path in (*everything.pictures[30:], *everything.broken):
        target = empty.source / path.relative_to(full.source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for path in everything.pictures[:30]:  # unreadable now: a fit that read them again would notice
        (empty.source / path.relative_to(full.source)).write_bytes(b"changed")
    assert _fit(empty, "--variance", "0.8", "--from", first.version, weights="") == 0
    grown = _current(empty)
    assert _fit(full, "--variance", "0.8") == 0
    whole = _current(full)
    assert grown.manifest.from_version == first.version
    assert (grown.manifest.pictures, grown.manifest.quarantined) == (50, 1)
    assert len(read_identities(grown)) == 50
    _projections_agree(grown.projection(), whole.projection())
    assert Evidence.of_bundle(grown).statistics.count == 50
    for model in (grown, whole):
        held_back = sorted(filter(is_held_back, read_identities(model)))
        assert Evidence.of_bundle(model).held_back.identities == held_back
        assert model.manifest.held_back is None or model.manifest.held_back.pictures == len(held_back)


def test_what_is_forgotten_meanwhile_is_in_no_model(
    empty: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither one of the pictures that are added, nor one of the model that they are added to, at any moment."""
    pictures = write_samples(empty.source, pictures=24, broken=0).pictures
    assert _fit(empty, "--k", "2", "--limit", "20") == 0
    kept = empty.models.rename(empty.root / "kept")
    for step, whose in (("fit_pca", "base"), ("_seal", "base"), ("_seal", "new")):
        shutil.rmtree(empty.models, ignore_errors=True)
        shutil.copytree(kept, empty.models)
        with monkeypatch.context() as patch:
            _forget_meanwhile(empty, pictures, step, whose, patch)
        assert "had to be forgotten while the model was fitted; fit again" in capsys.readouterr().err


def _forget_meanwhile(
    empty: Place, pictures: list[Path], step: str, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _current(empty)
    known = read_identities(base)
    gone = next(str(path) for path in pictures if (identity_of(str(path)) in known) == (whose == "base"))
    go_on = getattr(job, step)

    def forget_first(*arguments: Any) -> Any:
        models = open_folder(str(empty.models))
        entry = Entry.of([gone], [], make_salt(models), datetime.now(UTC))
        add_entry(models, entry)
        denylist = Denylist([entry])
        for affected in list(find_models(models, denylist, denylist.holds_identity)):
            erase_in_model(models, affected)
        return go_on(*arguments)

    monkeypatch.setattr(job, step, forget_first)
    assert _fit(empty, "--k", "2", "--from", base.version, weights="") == 3
    assert {file.name for file in empty.models.iterdir()} - {"_tmp", "_forgotten"} == {"CURRENT", base.version}
    assert _registry(empty).current() == base.version


def test_what_a_killed_fit_left_goes_when_it_is_old(place: Place) -> None:
    """Not what another fit may be writing now, and no model."""
    models, now = open_folder(str(place.models)), datetime.now(UTC)
    old, young = (f"{now - timedelta(minutes=age):%Y%m%dT%H%M%SZ}-00000000" for age in (70, 50))
    for version in (old, young):
        models.create(f"{version}/{bundle.IDENTITIES}", b"")

    def left() -> list[str]:
        return sorted(name for name in models.names("") if name.startswith((old, young)))

    Registry(models).remove_incomplete(now)
    assert left() == [f"{old}/{bundle.MANIFEST}", f"{young}/{bundle.IDENTITIES}"]
    Registry(models).remove_incomplete(now + timedelta(hours=25))
    assert left() == [f"{young}/{bundle.MANIFEST}"]
    assert [one.version for one in Registry(models).versions()] == [Registry(models).current()]


def test_many_tasks_give_what_few_give(empty: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statistics of many tasks are merged on the executors first; one unreadable file fails none of them."""
    write_samples(empty.source, pictures=40, broken=2)
    (empty.source / "unreadable.jpg").symlink_to("/proc/self/mem")
    assert _fit(empty, "--k", "4") == 0
    few = _current(empty)
    monkeypatch.setattr("batch_fit.featurize._PICTURES_PER_TASK", (2, 2))
    assert _fit(empty, "--k", "4") == 0
    many = _current(empty)
    assert many.version != few.version
    assert (many.manifest.pictures, many.manifest.quarantined) == (40, 3)
    assert read_identities(many) == read_identities(few)
    _projections_agree(many.projection(), few.projection())


def test_the_registry_remembers_what_was_current(
    empty: Place, backbone: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """--promote never leaves CURRENT alone; promote and rollback go forth and back through history."""
    write_samples(empty.source, pictures=12, broken=0)
    models = ["--models", str(empty.models)]
    one = promote_model(empty.models, backbone, k=2, seed=0)
    assert _fit(empty, "--k", "3", "--promote", "never") == 0
    assert _registry(empty).current() == one
    [two] = [manifest.version for manifest in _registry(empty).versions() if manifest.version != one]
    assert main(["models", "promote", two, *models]) == 0
    assert _registry(empty).current() == two
    assert main(["models", "list", *models]) == 0
    [marked] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("*")]
    assert two in marked
    assert main(["models", "rollback", *models]) == 0
    assert _registry(empty).current() == one
    assert main(["models", "rollback", *models]) == 4
    assert "no earlier model" in capsys.readouterr().err
    assert main(["models", "show", *models]) == 0
    assert f'"version": "{one}"' in capsys.readouterr().out
    assert main(["models", "promote", "../../etc", *models]) == 4
    assert main(["models", "promote", *models]) == 2


def test_a_refit_is_promoted_if_it_is_not_worse(
    empty: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is worse, or that nobody can tell of, is kept; the fit ends with exit code 0 and says why."""
    write_samples(empty.source, pictures=120, broken=0)

    def refit(k: int) -> str:
        capsys.readouterr()
        assert _fit(empty, "--k", str(k), "--promote", "if-not-worse", "--no-thumbnails") == 0
        return capsys.readouterr().out

    assert "compared" not in refit(10)
    first = _current(empty).version
    assert re.search("not promoted.*\ncompared .* held-out pictures are unknown to both, and 100 are needed", refit(20))
    # How many pictures are held back depends on their folder; any of them tells fewer components from more.
    monkeypatch.setattr("batch_fit.comparison.ENOUGH_HELD_BACK", 1)
    monkeypatch.setattr("batch_fit.comparison.TOLERANCE", 0.0)
    assert re.search(rf"not promoted.*\ncompared .* keeps .* of the variance .* {first} keeps", refit(2))
    assert _registry(empty).current() == first
    assert "(current)" in refit(20)
    latest = _current(empty)
    assert (latest.manifest.k, len(_registry(empty).versions())) == (20, 4)
    comparison = latest.manifest.comparison
    assert comparison is not None
    assert (comparison.current, comparison.not_worse) == (first, True)
    report = latest.file(bundle.REPORT).decode()
    assert comparison.reason in report
    assert "data:image" not in report


@pytest.mark.parametrize("name", ["backbone.tflite", "projection.npz", "manifest.json"])
def test_a_bundle_with_one_byte_changed_is_refused_by_name(place: Place, name: str) -> None:
    """Whichever file it is, the error says which, and what to do."""
    models = open_folder(str(place.models))
    registry = Registry(models)
    version = registry.current()
    file = place.models / version / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=name):
        registry.open(version)


def test_a_manifest_that_was_changed_is_refused_by_name(place: Place) -> None:
    """Also where all models are listed, and where one is given new records."""
    models = open_folder(str(place.models))
    version = Registry(models).current()
    (place.models / version / bundle.MANIFEST).write_text("{}")
    with pytest.raises(ModelError, match=f"{version}/manifest.json was changed"):
        Registry(models).versions()
    with pytest.raises(ModelError, match=f"{version}/manifest.json was changed"):
        bundle.reseal(models, version, {}, 0)


def test_a_sample_is_spread_over_the_input_and_the_same_each_time(empty: Place) -> None:
    """--limit chooses by the hash of the path, so that no class comes first; more pictures contain the fewer.

    Half of the pictures are without one of the classes in one of a million folders; a quarter of them in one of 100.
    """
    write_samples(empty.source, pictures=120, broken=0)
    half = [picture.path for picture in choose(str(empty.source), 60, AWS_DEFAULTS)]
    assert half == [picture.path for picture in choose(str(empty.source), 60, AWS_DEFAULTS)]
    assert len({Path(path).parent for path in half}) == 6
    assert {picture.path for picture in choose(str(empty.source), 30, AWS_DEFAULTS)} < set(half)
    assert len(choose(str(empty.source), None, AWS_DEFAULTS)) == 120


def test_an_empty_input_is_an_error(empty: Place) -> None:
    """One line that names the option, and says if pictures were left out because they are to be forgotten."""
    with pytest.raises(InputError, match=r"there are no pictures in this folder; check --input$"):
        choose(str(empty.source), None, AWS_DEFAULTS)
    pictures = write_samples(empty.source, pictures=3, broken=0).pictures
    entry = Entry.of(map(str, pictures), [], make_salt(open_folder(str(empty.models))), datetime.now(UTC))
    with pytest.raises(InputError, match=r"check --input; left out, to be forgotten: 3$"):
        choose(str(empty.source), None, AWS_DEFAULTS, Denylist([entry]))


def test_pictures_that_cannot_be_used_are_told_with_the_reasons(
    empty: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted, with one of them as an example."""
    for number in range(3):
        (empty.source / f"{number}.jpg").write_bytes(b"no picture" if number else b"")
    assert _fit(empty) == 3
    said = capsys.readouterr().err
    assert "no picture could be used, and a fit needs at least two; add some; not used: not_an_image 2, empty 1" in said
    assert re.search(rf"such as {empty.source}/\d\.jpg \((not_an_image|empty): .+\)", said)


@pytest.mark.parametrize(
    ("pictures", "more", "code", "told"),
    [
        (0, (), 3, "there are no pictures"),
        (1, (), 3, "a fit needs at least two"),
        (4, ("--k", "9"), 2, "vary in 3 directions at most; give --k 3 or less"),
    ],
)
def test_too_few_pictures_are_answered_in_one_line_and_leave_no_model(
    empty: Place, capsys: pytest.CaptureFixture[str], pictures: int, more: tuple[str, ...], code: int, told: str
) -> None:
    """And say how many there must be, or what is possible with those."""
    write_samples(empty.source, pictures=pictures, broken=0)
    assert _fit(empty, "--save-features", str(empty.root / "saved"), *more) == code
    assert not (empty.root / "saved").exists()
    assert told in capsys.readouterr().err
    assert _registry(empty).versions() == []


def test_saved_features_never_overwrite(empty: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with something in it is refused before any work."""
    write_samples(empty.source, pictures=3, broken=0)
    (empty.root / "saved").mkdir()
    (empty.root / "saved" / "mine").write_bytes(b"x")
    assert _fit(empty, "--save-features", str(empty.root / "saved")) == 2
    assert "holds files already" in capsys.readouterr().err
    (empty.root / "empty").mkdir()
    assert _fit(empty, "--save-features", str(empty.root / "empty")) == 2
    assert f"fit.save_features: {empty.root}/empty is there already" in capsys.readouterr().err
    assert (empty.root / "empty").exists()


def test_a_fit_that_saves_no_features_records_none(empty: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """As no picture is new: forget must not look for them."""
    write_samples(empty.source, pictures=8, broken=0)
    saved = empty.root / "saved"
    assert _fit(empty, "--k", "2") == 0
    capsys.readouterr()
    assert _fit(empty, "--k", "2", "--from", "current", "--save-features", str(saved), weights="") == 0
    assert f"no features are saved in {saved}, as no picture is new" in capsys.readouterr().err
    assert not saved.exists()
    assert _current(empty).manifest.from_version
    assert _current(empty).manifest.saved_features is None


def test_a_model_that_cannot_be_promoted_is_not_fitted_again(
    empty: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store that fails once the model is saved: the error names the command that is left to do."""
    write_samples(empty.source, pictures=8, broken=0)
    promote, outage = Registry.promote, [TransientError("the store fails")]
    check, outage_before = delete_if_forgotten, [TransientError("the store fails, too")]

    def check_after_outage(draft: Draft, paths: Iterable[str], base: bundle.Bundle | None) -> None:
        if _registry(empty).versions() and outage_before:
            raise outage_before.pop()
        check(draft, paths, base)

    def promote_after_outage(registry: Registry, version: str) -> None:
        if outage:
            raise outage.pop()
        promote(registry, version)

    monkeypatch.setattr(job, "delete_if_forgotten", check_after_outage)
    monkeypatch.setattr(Registry, "promote", promote_after_outage)
    assert _fit(empty, "--k", "2") == StorageError.exit_code
    [made] = _registry(empty).versions()
    said = capsys.readouterr().err
    assert "the store fails, too; nothing is lost, trying again" in said
    assert f"model {made.version} is saved, and may not be current: the store fails; python -m batch_fit" in said
    assert main(["models", "promote", made.version, "--models", str(empty.models)]) == 0
    assert _registry(empty).current() == made.version


@pytest.mark.parametrize("more", [(), ("--no-wait",)])
def test_saved_features_without_a_model_are_no_obstacle(
    empty: Place, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """A store that fails when they are written is waited for; a fit that gives up leaves none."""
    write_samples(empty.source, pictures=8, broken=0)
    saved = empty.root / "saved"
    failed: list[bool] = []

    def fail_once(identities: Collection[bytes]) -> bytes:
        if not failed:
            assert any(saved.glob("*.parquet"))
            failed.append(True)
            raise TransientError("the store fails")
        return write_identities(identities)

    monkeypatch.setattr(job, "write_identities", fail_once)
    code = _fit(empty, "--k", "2", "--save-features", str(saved), *more)
    assert failed
    assert saved.exists() == (not more)
    if more:
        assert code == TransientError.exit_code
    else:
        assert code == 0
        assert len(pq.read_table(saved)) == 8
        assert len(_registry(empty).versions()) == 1
