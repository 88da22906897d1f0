"""fit --side: another side is another backbone, compared with 224 pixels on held-out pictures."""

from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batch_fit import sides
from batch_fit.__main__ import main
from batch_fit.sides import NEIGHBOURS, BothSides, OneSide, as_sights, compare_sides, look_with
from conf.loading import load_settings
from streaming.features.backbone import BackboneRunner
from streaming.features.featurizer import Recipe
from streaming.features.imaging import decode
from streaming.features.schema import as_table
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import StoredPicture, identity_of
from streaming.storage.locations import look_up, open_folder
from tests.support.backbones import at_side
from tests.support.pictures import LIMITS
from tests.support.samples import held_back_names, write_samples
from tests.support.streams import Place


class _Sent:
    """A recipe as a worker has it."""

    def __init__(self, backbone: bytes) -> None:
        self.value = Recipe.of(backbone, None, load_settings({}))


def _sights(own: sides.OneSide, labels: int = 4) -> BothSides:
    """240 pictures of some labels, which lie near a place of their label at 224 pixels; a quarter is held out."""
    paths = [f"/in/{number % labels}/{number}.jpg" for number in range(240)]
    return BothSides(paths, np.arange(240) < 60, own, _sight(224, 20.0))


def _sight(side: int, seconds: float, noise: float = 0.2, seed: int = 0, labels: int = 4) -> OneSide:
    random = np.random.default_rng(seed)
    places = np.random.default_rng(0).normal(size=(labels, 1280))[np.arange(240) % labels]
    return OneSide(side, (places + noise * random.normal(size=(240, 1280))).astype(np.float32), seconds)


def test_a_side_that_sees_the_same_agrees_and_is_faster() -> None:
    same = replace(_sight(224, 10.0), side=160)
    compared = compare_sides(_sights(same), 0.9)
    assert (compared.pictures, compared.fitted, compared.variance, compared.overlap) == (60, 180, 0.9, 1.0)
    assert (compared.own.rate, compared.default.rate) == (24.0, 12.0)
    assert compared.own.accuracy == compared.default.accuracy == 1.0
    assert replace(compared.own, side=224, rate=12.0) == compared.default
    assert 0 < compared.default.error_p50 < compared.default.error_p95


def test_a_side_that_sees_something_else_is_told_from_it() -> None:
    """Other noise gives other neighbours, of the same labels; so much that labels drown in it gives others of these."""
    other = compare_sides(_sights(_sight(160, 10.0, seed=1)), 0.9)
    assert other.overlap < 2 * NEIGHBOURS / 60
    assert other.own.accuracy == 1.0
    drowned = compare_sides(_sights(_sight(160, 10.0, noise=30.0, seed=1)), 0.9)
    assert drowned.own.accuracy is not None
    assert drowned.own.accuracy < 0.5
    assert drowned.own.k > drowned.default.k
    assert compare_sides(_sights(_sight(160, 10.0), labels=1), 0.9).own.accuracy is None


def _listed(paths: list[Path]) -> pa.RecordBatch:
    pictures: list[StoredPicture] = [found for path in paths if (found := look_up(str(path)))]
    return as_table(pictures).combine_chunks().to_batches()[0]


def test_both_sides_see_the_same_pictures(
    backbone: bytes, pictures: list[Path], broken: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that can no longer be used is left out, and so are those of a task that failed before."""
    gone, small = tmp_path / "gone.jpg", at_side(backbone, 160)
    shutil.copy(pictures[0], gone)
    batch = _listed([*pictures[1:6], gone, broken[0]])
    gone.unlink()
    assert [*look_with(_Sent(small), lambda: True)([batch])] == []
    seen = pa.Table.from_batches(look_with(_Sent(small), lambda: False)([batch]))
    held_out = {identity_of(str(path)) for path in pictures[1:4]}
    assert as_sights(seen, 160, held_out) is None  # 100 of either kind are needed
    monkeypatch.setattr(sides, "ENOUGH_HELD_BACK", 2)
    sights = as_sights(seen, 160, held_out)
    assert sights is not None
    assert sights.paths == sorted(map(str, pictures[1:6]))
    assert [identity_of(path) in held_out for path in sights.paths] == sights.held_out.tolist()
    for sight, side in ((sights.own, 160), (sights.default, 224)):
        runner = BackboneRunner(backbone, side)
        expected = [runner.run(decode(Path(path).read_bytes(), LIMITS, side).pixels) for path in sights.paths]
        assert np.array_equal(sight.features, expected)
        assert sight.side == side
        assert sight.seconds > 0


def _fit(place: Place, *more: str) -> int:
    arguments = ("--models", str(place.models), "--master", "local[2,4]", "--k", "3", "--log-format", "text")
    return main(["fit", "--input", str(place.source), *arguments, *more])


def test_a_fit_of_another_side_says_what_it_costs_and_brings(
    place: Place, backbone: bytes, jvm: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a converted backbone of this side, to answer, manifest, list and report; a refit keeps the side."""
    [picture, *_] = write_samples(place.source, pictures=40, broken=0).pictures
    for number, path in enumerate(itertools.islice(held_back_names(picture), 12)):
        shutil.copy(place.source / "Kiwi" / f"{2 + 6 * (number % 6):06}.jpg", path)
    converted = place.root / "small.tflite"
    converted.write_bytes(at_side(backbone, 160))
    monkeypatch.setattr(sides, "ENOUGH_HELD_BACK", 12)
    assert _fit(place, "--weights", str(converted)) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^side +160 pixels, \d\.\d\d times as fast as 224, with \d+% of its nearest neighbours", said, re.MULTILINE
    )
    registry = Registry(open_folder(str(place.models)))
    model = registry.open(registry.current())
    assert model.manifest.side == 160
    page = model.file(bundle.REPORT).decode()
    assert "<h2>160 pixels beside 224</h2>" in page
    assert "looking at a sample at 224 pixels, too" in page
    assert re.search(r"<caption>[1-9]\d held-out pictures, seen by the same weights at both sides", page)
    assert _fit(place, "--from", "current", "--side", "224") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"fit.side: 224 is given, and this fit has the backbone of {model.version}, which sees 160 pixels" in error
    assert _fit(place, "--from", "current", "--side", "160") == 0
    assert re.search(r"^side +160 pixels$", capsys.readouterr().out, re.MULTILINE)  # it has read nothing to compare
    refitted = registry.open(registry.current()).manifest
    assert (refitted.side, refitted.files[bundle.BACKBONE]) == (160, model.manifest.files[bundle.BACKBONE])
    assert refitted.version != model.version
    assert main(["models", "list", "--models", str(place.models)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    place_of_side = head.index("side")
    assert [row[place_of_side:].split()[0] for row in rows] == ["224", "160", "160"]


@pytest.mark.parametrize("side", ["128", "big"])
def test_a_side_that_there_is_not_is_refused(place: Place, capsys: pytest.CaptureFixture[str], side: str) -> None:
    assert _fit(place, "--side", side) == 2
    assert "(from the command line) is not allowed: input should be 224, 192 or 160" in capsys.readouterr().err


def test_a_bundle_that_does_not_say_is_of_224_pixels(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """As those of earlier releases; a fit that adds to one takes no other side."""
    [version] = [one.name for one in place.models.iterdir() if one.is_dir() and one.name.startswith("2")]
    file = place.models / version / bundle.MANIFEST
    file.write_text(re.sub(r'^ +"side": 224,\n', "", file.read_text(), flags=re.MULTILINE))
    assert '"side"' not in file.read_text()
    assert main(["models", "list", "--models", str(place.models)]) == 0
    assert re.search(rf"^\* +{version} .* 224 +[0-9a-f]{{16}} +random:0$", capsys.readouterr().out, re.MULTILINE)
    write_samples(place.source, pictures=2, broken=0)
    assert _fit(place, "--from", "current", "--side", "192") == 2
    assert "fit.side: 192 is given, and this fit has the backbone of" in capsys.readouterr().err


def test_the_side_of_a_converted_backbone_is_not_contradicted(
    place: Place, backbone: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what is no backbone at all is named before Spark starts."""
    write_samples(place.source, pictures=4, broken=0)
    file = tmp_path / "192.tflite"
    file.write_bytes(at_side(backbone, 192))
    assert _fit(place, "--weights", str(file), "--side", "160") == 2
    assert f"fit.side: 160 is given, and {file} was converted at 192 pixels" in capsys.readouterr().err
    file.write_bytes(b"no flatbuffer")
    assert _fit(place, "--weights", str(file)) == 4
    assert f"fit.weights: {file} cannot be used: the backbone is not a LiteRT model" in capsys.readouterr().err
