"""The comparison of a new model with the current one: on pictures that neither has seen, by one yardstick."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from batch_fit import held_back
from batch_fit.comparison import Contender, compare
from batch_fit.fitted import describe_held_out
from batch_fit.held_back import Evidence, HeldBack, is_held_back
from batch_fit.statistics import Statistics
from streaming.features.schema import FEATURE_COUNT
from streaming.registry.bundle import HeldBackFigures
from streaming.storage.folder import identity_of


def contender(k: int, **kinds: range) -> Contender:
    """A model of `k` components fitted to pictures of some kinds, by their numbers."""
    pictures: dict[bytes, NDArray[np.float32]] = {}
    for kind, numbers in kinds.items():
        pictures |= {identity_of(f"/in/{kind}/{number}.jpg"): picture(kind, number) for number in numbers}
    held = {identity: features for identity, features in pictures.items() if is_held_back(identity)}
    others = np.array([features for identity, features in pictures.items() if identity not in held])
    name = f"{k} of " + ", ".join(kinds)
    evidence = Evidence(Statistics.of(others), HeldBack.of(held))
    return Contender(name, "1a2b", "imagenet", 224, k, evidence, set(pictures), classifies=False)


def picture(kind: str, number: int) -> NDArray[np.float32]:
    """Features that lie near 30 directions of their kind."""
    chance = np.random.default_rng([number, *kind.encode()])
    directions = chance.normal(size=30) @ mixing(kind)
    return (1 + directions + chance.normal(0, 0.3, FEATURE_COUNT)).astype(np.float32)


@cache
def mixing(kind: str) -> NDArray[np.float64]:
    """The directions of a kind, each weaker than the one before."""
    strength = 1 / np.arange(1, 31)
    return np.random.default_rng(list(kind.encode())).normal(size=(30, FEATURE_COUNT)) * strength[:, None]


@pytest.fixture(scope="module")
def fruit() -> Contender:
    """The current model."""
    return contender(20, fruit=range(1500))


def test_another_sample_of_the_same_pictures_is_not_worse(fruit: Contender) -> None:
    """Nor is the first against it; they are measured on what each held back and the other did not learn."""
    other = contender(20, fruit=range(700, 2200))
    there, back = compare(other, fruit), compare(fruit, other)
    assert there.not_worse
    assert back.not_worse
    seen = {identity for one in (fruit, other) for identity in one.identities}
    assert there.pictures == sum(map(is_held_back, seen))
    assert (there.variance_kept, there.current_variance_kept) == (back.current_variance_kept, back.variance_kept)


def test_fewer_components_are_worse_and_more_are_not(fruit: Contender) -> None:
    """And the reason says by how much."""
    verdict = compare(replace(fruit, version="small", k=3), fruit)
    assert not verdict.not_worse
    assert verdict.variance_kept is not None
    assert verdict.current_variance_kept is not None
    assert verdict.variance_kept < verdict.current_variance_kept
    assert f"keeps {verdict.variance_kept:.1%} of the variance" in verdict.reason
    assert f"20 of fruit keeps {verdict.current_variance_kept:.1%}" in verdict.reason
    assert compare(fruit, replace(fruit, version="small", k=3)).not_worse


def test_a_model_of_other_pictures_is_worse(fruit: Contender) -> None:
    """Somebody named the wrong folder: what the current model held back tells."""
    assert not compare(contender(20, street=range(300)), fruit).not_worse


def test_a_model_that_has_learnt_the_new_kind_too_is_better(fruit: Contender) -> None:
    """As after drift: the current model has never seen the second kind."""
    verdict = compare(contender(25, fruit=range(1500), street=range(500)), fruit)
    assert verdict.not_worse
    assert verdict.variance_kept is not None
    assert verdict.current_variance_kept is not None
    assert verdict.variance_kept > verdict.current_variance_kept + 0.05


def test_what_cannot_be_compared_is_not_called_better(fruit: Contender) -> None:
    """Too few pictures, or another backbone."""
    few = contender(2, fruit=range(50))
    verdict = compare(few, few)
    assert not verdict.not_worse
    assert "100 are needed" in verdict.reason
    verdict = compare(replace(fruit, backbone="3c4d"), fruit)
    assert not verdict.not_worse
    assert "another backbone than 3c4d (imagenet at 224 pixels, 1a2b)" in verdict.reason
    assert compare(replace(fruit, weights="backbone.tflite"), fruit).not_worse  # the same one by another name


def test_a_model_without_a_classifier_is_not_promoted_over_one_with_it(fruit: Contender) -> None:
    """Or rows would lose their labels by a schedule."""
    verdict = compare(fruit, replace(fruit, classifies=True))
    assert not verdict.not_worse
    assert "no classifier" in verdict.reason
    assert compare(replace(fruit, classifies=True), replace(fruit, classifies=True)).not_worse
    assert compare(replace(fruit, classifies=True), fruit).not_worse


def test_no_more_are_held_back_than_fit_into_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are too many join the others, so that a fit in steps knows what a fit at once would."""
    monkeypatch.setattr(held_back, "MOST_HELD_BACK", 60)
    parts = [contender(20, fruit=numbers).evidence for numbers in (range(500), range(500, 1000))]
    merged = parts[0].merge(parts[1])
    whole = contender(20, fruit=range(1000)).evidence
    assert merged.held_back.identities == whole.held_back.identities[:60]
    assert merged.others.count == 1000 - 60
    np.testing.assert_allclose(merged.statistics.scatter, whole.statistics.scatter, rtol=1e-9, atol=1e-9)
    kept = HeldBack.from_bytes(merged.held_back.to_bytes())
    assert kept.identities == merged.held_back.identities
    np.testing.assert_array_equal(kept.features, merged.held_back.features)


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        (0, "too few to tell drift (100 are needed, and more others than components)"),
        (99, "99 of them, too few to tell drift (100 are needed)"),
        (2000, "2,000 of them; a fit without them keeps 80.7% of their variance"),
    ],
)
def test_the_answer_of_a_fit_says_whether_the_model_can_tell_drift(pictures: int, said: str) -> None:
    """Once; the log of the stream would say it at each start."""
    figures = HeldBackFigures(pictures=pictures, variance_kept=0.8066, error_p50=155, error_p95=461)
    assert describe_held_out(figures if pictures else None) == said
