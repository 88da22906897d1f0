"""The answer of a fit: what it says for people, for programs, and to type next."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from batch_fit.fitted import Fitted, options_of_names
from conf.loading import load_settings
from streaming.registry.bundle import BundleManifest

MANIFEST = BundleManifest(
    version="20260131T000000Z-00000000",
    created_at=datetime(2026, 1, 31, tzinfo=UTC),
    weights="random:0",
    k=2,
    variance_kept=0.5,
    pictures=1200,
    quarantined=3,
    input="/my pictures",
    limit=None,
    from_version=None,
    files={},
)
FITTED = Fitted("/models", MANIFEST, "/models/report.html", True, {"corrupt": 2, "empty": 1}, False, None)


@pytest.mark.parametrize(
    ("fitted", "step"),
    [
        (FITTED, "streaming replay --input '/my pictures' --models /models --output OUTPUT"),
        (
            replace(FITTED, names=("--include", "*.jpg")),
            "streaming replay --input '/my pictures' --include '*.jpg' --models /models --output OUTPUT",
        ),
        (replace(FITTED, on_embeddings=True), "streaming export --output '/my pictures' --models /models --to EXPORTS"),
        (replace(FITTED, promoted=False), f"batch_fit models promote {MANIFEST.version} --models /models"),
    ],
)
def test_the_next_step_names_the_places_of_the_fit(fitted: Fitted, step: str) -> None:
    """A model that is not promoted is of no use before it is."""
    assert fitted.next_step() == f"python -m {step}"


@pytest.mark.parametrize(
    ("ignore", "include", "options"),
    [
        ("default", "", []),
        ("", "", ["--ignore", ""]),
        ("*.tmp,@eaDir/", "*.jpg,a b*", ["--ignore", "*.tmp,@eaDir/", "--include", "*.jpg,a b*"]),
        ("x.jpg,default,*.xmp", "", ["--ignore", "x.jpg,default,*.xmp"]),
    ],
)
def test_the_names_of_the_fit_are_typed_again_as_they_were(ignore: str, include: str, options: list[str]) -> None:
    """Or a stream would take in what the fit was told to leave out."""
    stream = load_settings({"stream.ignore": ignore, "stream.include": include}).stream
    assert [*options_of_names(stream)] == options


def test_people_and_programs_get_the_same_figures() -> None:
    said = FITTED.as_text().splitlines()
    assert f"model        {MANIFEST.version} (current)" in said
    assert "pictures     1,200" in said
    assert "quarantined  3 (corrupt 2, empty 1)" in said
    document = json.loads(FITTED.as_json())
    assert document["rejected"] == {"corrupt": 2, "empty": 1}
    assert BundleManifest.model_validate(document["manifest"]) == MANIFEST
