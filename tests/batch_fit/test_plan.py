"""The plan of a fit: what it takes over from the model before it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from batch_fit.plan import plan_fit
from conf.errors import BundleError
from conf.loading import load_settings
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
