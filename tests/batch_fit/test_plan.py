"""The plan of a fit: what it takes over from the model before it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from batch_fit.gather import prepare_gathering
from batch_fit.plan import plan_fit, warn_of_weights
from batch_fit.sample import write_identities
from batch_fit.stages import Stages
from conf.errors import BundleError, SettingsError
from conf.loading import load_settings
from streaming.registry import bundle
from streaming.registry.bundle import Bundle
from streaming.storage.locations import open_folder
from tests.support.models import promote_model


def test_only_a_fit_on_embeddings_needs_the_current_model(tmp_path: Path) -> None:
    """Which says whether there is to be a classifier; a fit on pictures may replace one that is gone."""
    models, pictures = tmp_path / "models", tmp_path / "in"
    pictures.mkdir()
    version = promote_model(models, b"a backbone", k=4, seed=0)
    shutil.rmtree(models / version)
    plan = plan_fit(load_settings({"input": str(pictures), "models": str(models)}))
    assert (plan.base, plan.holdout) == (None, None)
    assert not plan.seen
    with pytest.raises(BundleError, match="promote another version"):
        plan_fit(load_settings({"fit.embeddings": str(tmp_path / "out"), "models": str(models)}))


def test_more_components_than_pictures_are_refused_before_spark_starts(tmp_path: Path) -> None:
    """Those of the model of --from count, too."""
    pictures = tmp_path / "in"
    pictures.mkdir()
    for number in range(4):
        (pictures / f"{number}.jpg").touch()
    given = {"input": str(pictures), "models": str(tmp_path / "models"), "fit.k": 104}
    settings = load_settings(given)
    with pytest.raises(SettingsError, match=r"104 components, but 4 pictures .* give --k 3 or less"):
        prepare_gathering(settings, plan_fit(settings), Stages())
    version = promote_model(tmp_path / "models", b"a backbone", k=4, seed=0)
    base = Bundle(open_folder(str(tmp_path / "models")), version)
    folder = tmp_path / "models" / version
    (folder / bundle.IDENTITIES).write_bytes(write_identities(set()))
    files = bundle.hash_files(open_folder(str(tmp_path / "models")), version)
    del files[bundle.MANIFEST]
    (folder / bundle.MANIFEST).write_text(base.manifest.model_copy(update={"files": files}).model_dump_json())
    settings = load_settings(given | {"fit.from_version": version})
    with pytest.raises(SettingsError, match=r"104 components, but 104 pictures .* give --k 103 or less"):
        prepare_gathering(settings, plan_fit(settings), Stages())


def test_a_model_that_forget_is_changing_is_no_base(tmp_path: Path) -> None:
    """It stops naming the records while it replaces them; a killed one leaves it so, and the next one finishes it."""
    pictures, models = tmp_path / "in", open_folder(str(tmp_path / "models"))
    pictures.mkdir()
    version = promote_model(tmp_path / "models", b"a backbone", k=4, seed=0)
    models.create(f"{version}/{bundle.IDENTITIES}", write_identities(set()))
    settings = load_settings({"input": str(pictures), "models": models.root, "fit.from_version": "current"})
    with pytest.raises(BundleError, match=r"forget is changing its .*; if none is running, python -m streaming forget"):
        plan_fit(settings)


def test_weights_that_a_fit_does_not_take_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are not refused: a file of settings may give them to each fit. Those of the model are nothing to tell."""
    version = promote_model(tmp_path, b"a backbone", k=4, seed=0)
    model = Bundle(open_folder(str(tmp_path)), version)
    for given in ({}, {"fit.weights": "random:0"}):
        warn_of_weights(load_settings(given).fit, model)
    assert not caplog.text
    for weights in ("imagenet", str(tmp_path / "missing.tflite")):
        warn_of_weights(load_settings({"fit.weights": weights}).fit, model)
        assert f"fit.weights: {weights} is ignored, as this fit has the backbone of {version}" in caplog.text
