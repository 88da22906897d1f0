"""The classifier: softmax over an affine map, the same bits alone and among others, and null where there is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from conf.errors import BundleError
from conf.loading import load_settings
from streaming.features.classifier import Classifier
from streaming.features.featurizer import Featurizer, Recipe
from streaming.features.schema import PICTURES, as_table
from streaming.output.batch_report import BatchReport
from streaming.output.tables import Result, feature_rows
from streaming.registry.bundle import new_version
from streaming.storage.locations import list_pictures
from tests.support.models import random_projection
from tests.support.samples import write_samples


def _classifier(labels: tuple[str, ...] = ("Apple", "Ünripe 苹果", "Cherry"), k: int = 4, seed: int = 0) -> Classifier:
    chance = np.random.default_rng(seed)
    return Classifier(labels, chance.normal(size=(len(labels), k)), chance.normal(size=len(labels)))


def test_it_is_softmax() -> None:
    classifier, chance = _classifier(), np.random.default_rng(1)
    for projected in chance.normal(size=(20, 4)).astype(np.float32):
        shares = np.exp(classifier.coefficients @ projected + classifier.intercepts)
        shares /= shares.sum()
        label, confidence = classifier.apply(projected)
        assert label == classifier.labels[shares.argmax()]
        assert confidence == pytest.approx(shares.max(), rel=1e-12)


def test_it_is_sure_and_not_nan_far_away() -> None:
    label, confidence = _classifier().apply(np.full(4, 1e6, np.float32))
    assert label in _classifier().labels
    assert confidence == 1


def test_its_bytes_are_all_of_it() -> None:
    """The same each time, so that a worker loads the same recipe once and a version names its content."""
    classifier = _classifier()
    again = Classifier.from_bytes(classifier.to_bytes())
    assert again.labels == classifier.labels
    assert again.to_bytes() == classifier.to_bytes()
    assert again.apply(np.ones(4, np.float32)) == classifier.apply(np.ones(4, np.float32))
    with pytest.raises(BundleError, match="labels, coefficients, intercepts cannot be read"):
        Classifier.from_bytes(random_projection(4, 0).to_bytes())
    now, projection = datetime(2026, 1, 31, tzinfo=UTC), random_projection(4, 0)
    versions = [new_version(now, b"", projection, one) for one in (None, classifier, again, _classifier(seed=1))]
    assert versions[1] == versions[2]
    assert len({*versions}) == 3


def test_each_row_has_the_label_that_the_model_predicts(source: Path, backbone: bytes) -> None:
    """Null where the model has no classifier, and where a picture was rejected."""
    write_samples(source, pictures=6, broken=1)
    [batch] = as_table(list_pictures(str(source), print)).cast(PICTURES).combine_chunks().to_batches()
    plain = Recipe.of(backbone, random_projection(4, 0), load_settings({}))
    classifier = _classifier()
    with_classes = replace(plain, classifier=classifier)
    assert len({plain, with_classes, replace(plain, classifier=_classifier(seed=1))}) == 3
    outcomes = Featurizer(with_classes)(batch)
    expected = [
        (None, None) if row is None else classifier.apply(np.array(row, np.float32))
        for row in outcomes.column("features").to_pylist()
    ]
    assert outcomes.column("predicted_label").to_pylist() == [label for label, _ in expected]
    confidences = [None if confidence is None else np.float32(confidence) for _, confidence in expected]
    assert outcomes.column("confidence").to_pylist() == confidences
    assert [alone for row in range(7) for alone in Featurizer(with_classes)(batch.slice(row, 1)).to_pylist()] == (
        outcomes.to_pylist()
    )
    report = BatchReport("", 7, Counter(), 0.0, 0.0, "model", None)
    rows = feature_rows(Result(pa.Table.from_batches([outcomes]), "", datetime.now(UTC), report))
    assert rows.column("predicted_label").null_count == rows.column("confidence").null_count == 0
    without = Featurizer(plain)(batch)
    assert without.column("predicted_label").null_count == without.column("confidence").null_count == 7
    assert without.column("features").equals(outcomes.column("features"))
