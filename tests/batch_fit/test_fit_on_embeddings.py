"""A fit on the embeddings of an output: the same model as a fit on the pictures, and clear words where it cannot be."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_fit import embeddings
from batch_fit.__main__ import main
from batch_fit.gather import _owner
from conf.errors import ModelError
from streaming.__main__ import main as stream
from streaming.features.backbone import backbone_id
from streaming.features.projection import Projection
from streaming.features.schema import EMBEDDINGS
from streaming.output.embeddings import embeddings_files
from streaming.registry import bundle
from streaming.registry.bundle import Bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder, identity_of
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet
from tests.support.backbones import at_side
from tests.support.models import promote_model
from tests.support.streams import Place, begin, replay


def _fit(place: Place, *more: str) -> int:
    return main(["fit", "--models", str(place.models), "--k", "5", "--promote", "never", "--log-format", "text", *more])


def _fitted(place: Place, *more: str) -> Bundle:
    before = {one.version for one in _registry(place).versions()}
    assert _fit(place, *more) == 0
    [version] = {one.version for one in _registry(place).versions()} - before
    return _registry(place).open(version)


def _registry(place: Place) -> Registry:
    return Registry(open_folder(str(place.models)))


def _agree(first: Projection, second: Projection) -> None:
    """To rounding, as docs/adr/0014 explains: the statistics are merged in another order."""
    for name in ("mean", "std", "explained_variance"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(first.components, second.components, atol=1e-9)


@pytest.fixture
def replayed(place: Place, pictures: list[Path], broken: list[Path], jvm: None) -> Place:
    """An output with embeddings of 40 pictures, in several files."""
    place.put(*pictures[:40])
    place.put(*broken, folder="broken")
    assert replay(place, "--max-pictures", "12") == 0
    return place


def test_it_gives_the_model_of_a_fit_on_the_pictures(
    replayed: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all pictures, by this process and by Spark, of a sample, and added to a base; rows are those of the stream."""
    place = replayed
    weights = tmp_path / "backbone.tflite"
    weights.write_bytes(_registry(place).open(_registry(place).current()).file(bundle.BACKBONE))
    on_pictures = ("--input", str(place.source), "--weights", str(weights))
    on_embeddings = ("--embeddings", str(place.output))
    by_pictures, whole = _fitted(place, *on_pictures), _fitted(place, *on_embeddings)
    with monkeypatch.context() as context:
        context.setattr(embeddings, "_FILES_HERE", 0)
        by_spark = _fitted(place, *on_embeddings)
    for one in (whole, by_spark):
        _agree(by_pictures.projection(), one.projection())
        for name in (bundle.BACKBONE, bundle.HELD_BACK, bundle.IDENTITIES):
            assert by_pictures.file(name) == one.file(name)
    assert (whole.manifest.pictures, whole.manifest.input) == (40, str(place.output))
    sampled = _fitted(place, *on_pictures, "--limit", "30", "--ignore", "broken/")  # which would be in the sample
    sample = _fitted(place, *on_embeddings, "--limit", "30")
    _agree(sampled.projection(), sample.projection())
    added = _fitted(place, *on_embeddings, "--from", sample.version)
    _agree(added.projection(), whole.projection())
    assert added.manifest.pictures == 40


def test_the_forgotten_are_not_in_it(replayed: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a denylist alone knows of them, because their rows came back by hand."""
    place = replayed
    saved = {file: file.read_bytes() for file in (place.output / "embeddings").glob("date=*/2*")}
    [gone, *_] = place.featurized()
    assert stream(["forget", "--output", str(place.output), gone]) == 0
    assert gone not in place.embedded()
    for file, data in saved.items():
        file.write_bytes(data)
    assert gone in place.embedded()
    made = _fitted(place, "--embeddings", str(place.output))
    assert made.manifest.pictures == 39
    kept = pq.read_table(pa.BufferReader(made.file(bundle.IDENTITIES))).column(0).to_pylist()
    assert identity_of(gone) not in kept
    assert "39" in capsys.readouterr().out
    lost = saved.popitem()[0]
    count = len(pq.read_table(lost, partitioning=None))
    lost.unlink()
    assert _fitted(place, "--embeddings", str(place.output)).manifest.pictures in (39 - count, 40 - count)
    assert (
        "left out: the pictures of 1 file of the table features without embeddings (older, written"
        in capsys.readouterr().err
    )


@pytest.fixture
def output(place: Place) -> Folder:
    """An output with rows of two days, made without Spark."""
    output = open_folder(str(place.output))
    begin(output)
    return output


def _add(output: Folder, day: str, backbone: str, count: int = 3, length: int = 1280) -> str:
    rows = {
        "path": [f"/in/{day}/{number}.jpg" for number in range(count)],
        "embedding": np.random.default_rng(int(day[-2:])).random((count, length), np.float32).tolist(),
        "backbone": [backbone] * count,
        "processed_at": [0] * count,
    }
    name = f"embeddings/date={day}/2.parquet"
    output.create(name, as_parquet(pa.table(rows, EMBEDDINGS)))
    return name


def test_the_days_are_chosen(output: Folder) -> None:
    for day in ("2026-01-30", "2026-01-31", "2026-02-01"):
        _add(output, day, "b")

    def days(since: int | None, until: int | None) -> list[str]:
        bounds = [date(2026, 1, day) if day else None for day in (since, until)]
        return [name.split("=")[1][:10] for name in embeddings_files(output, *bounds)]

    assert days(None, None) == ["2026-01-30", "2026-01-31", "2026-02-01"]
    assert days(31, None) == ["2026-01-31", "2026-02-01"]
    assert days(None, 31) == ["2026-01-30", "2026-01-31"]
    assert days(31, 31) == ["2026-01-31"]
    assert days(29, 29) == []


def test_a_refit_keeps_the_side_of_its_embeddings(
    place: Place, output: Folder, jvm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is that of the model whose backbone made them, whatever the current model has."""
    current = _registry(place).open(_registry(place).current())
    small = at_side(current.file(bundle.BACKBONE), 160)
    promote_model(place.models, small, k=4, seed=1, side=160)
    _registry(place).promote(current.version)
    _add(output, "2026-01-30", backbone_id(small), count=12)
    assert _fit(place, "--embeddings", str(place.output), "--side", "224") == 2
    assert "which sees 160 pixels; leave out --side" in capsys.readouterr().err
    made = _fitted(place, "--embeddings", str(place.output))
    assert (made.manifest.side, made.file(bundle.BACKBONE)) == (160, small)
    report = made.file(bundle.REPORT).decode()
    assert "too few to compare with 224 pixels" in report
    assert "None of the pictures could be read from here" in report


def test_a_refit_stays_with_the_backbone_of_the_current_model(
    place: Place, output: Folder, jvm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several in the table: nobody can tell a scheduled one which to take. What it does not take is told."""
    mine = _registry(place).versions()[0].backbone
    _add(output, "2026-01-30", mine, 8)
    _add(output, "2026-01-31", "0123456789abcdef", 12)
    made = _fitted(place, "--embeddings", str(place.output), "--weights", "random:1", "--input", str(place.source))
    assert (made.manifest.backbone, made.manifest.pictures) == (mine, 8)
    told = capsys.readouterr().err
    assert f"(12 rows), {mine} (8 rows); taking {mine}, that of the current model" in told
    assert f"fit.weights: random:1 is ignored, as this fit has the backbone of {made.manifest.version[:4]}" in told
    assert f"those of the embeddings {place.output}, and not those of the input" in told


def test_a_damaged_model_does_not_stand_in_the_way_of_an_older_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose backbone is the same."""
    older, newer = (promote_model(tmp_path, b"a backbone", k=4, seed=seed) for seed in range(2))
    registry = Registry(open_folder(str(tmp_path)))
    wanted = registry.versions()[0].backbone
    [older, newer] = sorted([older, newer])
    assert _owner(registry, wanted).version == newer
    (tmp_path / newer / bundle.PROJECTION).write_bytes(b"damaged")
    assert _owner(registry, wanted).version == older
    assert f"{newer} is not usable: projection.npz was changed" in caplog.text
    (tmp_path / older / bundle.PROJECTION).unlink()
    with pytest.raises(ModelError, match=f"no usable model of the registry has the backbone {wanted}"):
        _owner(registry, wanted)


def test_what_cannot_be_fitted_is_one_line(
    place: Place,
    output: Folder,
    jvm: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing kept; several backbones; one that no model has; embeddings of another length; a damaged file."""

    def said(code: int, *more: str) -> str:
        assert _fit(place, "--embeddings", str(place.output), *more) == code
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        return error

    assert "has no embeddings in these days; run and replay keep them" in said(3)
    current = _registry(place).open(_registry(place).current())
    mine = current.manifest.files[bundle.BACKBONE][:16]
    _add(output, "2026-01-30", "fedcba9876543210")
    _add(output, "2026-01-31", "0123456789abcdef", 2)
    others = "fedcba9876543210 (3 rows), 0123456789abcdef (2 rows)"
    assert f"several backbones: {others}; give --backbone ID" in said(2)
    _add(output, "2026-01-29", mine, 4)
    assert "4 pictures of 1280 features vary in 3 directions at most; give --k 3 or less" in said(2)
    assert "no usable model of the registry has the backbone 0123456789abcdef" in said(
        4, "--backbone", "0123456789abcdef"
    )
    assert f"in these days, but of {mine} (4 rows), {others}; nothing" in said(3, "--backbone", "none")
    assert "has no embeddings in these days" in said(3, "--since", "2027-01-01")
    name = _add(output, "2026-02-01", mine, length=7)
    assert f"{name} has embeddings of [7] numbers, not 1280" in said(5, "--backbone", mine)
    _, tag = output.read_tagged(name)
    output.replace(name, b"no Parquet", tag)
    assert f"{name} cannot be read" in said(5)
    monkeypatch.setattr(embeddings, "_FILES_HERE", 0)  # by Spark, too
    assert f"{name} cannot be read" in said(5)
    assert "fit.backbone: it is that of the model of --from" in said(2, "--backbone", mine, "--from", "current")
    assert _fit(place, "--input", str(place.source), "--since", "2026-01-01") == 2
    assert "fit.since: it chooses among embeddings; leave it out" in capsys.readouterr().err
    assert _fit(place) == 2
    assert "give --input PICTURES, or --embeddings OUTPUT" in capsys.readouterr().err
    assert [one.version for one in _registry(place).versions()] == [current.version]
