"""Measures what predicting labels costs: pictures per second with a classifier over those without.

    python -m benchmarks.classifier

Both featurize the same pictures in turn, in this process; the ratio is that of each round.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from batch_fit.backbone import load_backbone
from benchmarks.support.common import Figure, at_least, print_figures, wait_for_quiet
from conf.loading import load_settings
from streaming.features.classifier import Classifier
from streaming.features.featurizer import Featurizer, Recipe
from streaming.features.schema import PICTURES, as_table
from streaming.storage.locations import list_pictures
from tests.support.models import random_projection
from tests.support.samples import write_samples

_COMPONENTS = 300
_CLASSES = 100
_PICTURES = 100
_ROUNDS = 15


def measure() -> Iterator[Figure]:
    """The speed of both, and their ratio."""
    chance = np.random.default_rng(0)
    labels = tuple(f"label {number}" for number in range(_CLASSES))
    classifier = Classifier(labels, chance.normal(size=(_CLASSES, _COMPONENTS)), np.zeros(_CLASSES))
    backbone = load_backbone("random:0").flatbuffer
    without = Recipe.of(backbone, random_projection(_COMPONENTS, seed=0), load_settings({}))
    featurizers = [Featurizer(without), Featurizer(replace(without, classifier=classifier))]
    with tempfile.TemporaryDirectory() as folder:
        write_samples(Path(folder), _PICTURES, broken=0)
        [batch] = as_table(list_pictures(folder, print)).cast(PICTURES).combine_chunks().to_batches()
        wait_for_quiet()
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(_ROUNDS):
            for featurizer, taken in zip(featurizers, seconds, strict=True):
                started = time.process_time()
                featurizer(batch)
                taken.append(time.process_time() - started)
    plain, classifying = (_PICTURES / median(taken) for taken in seconds)
    yield Figure("featurize, no classifier", f"{plain:.0f} per second of CPU")
    yield Figure(f"featurize, {_CLASSES} classes", f"{classifying:.0f} per second of CPU")
    ratios = [one / other for one, other in zip(*seconds, strict=True)]
    yield at_least("with a classifier over without", ratios, 0.98)


if __name__ == "__main__":
    print_figures(measure())
