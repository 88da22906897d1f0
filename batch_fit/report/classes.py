"""Sorts the answers of a measured classifier into what the report tells of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batch_fit.classification import Answers, Classification
from streaming.registry.bundle import ClassifierFigures

BINS = 10

_MOST_CLASSES = 30
_MOST_CONFUSIONS = 20
_PERCENTILES = (95, 99)


@dataclass(frozen=True)
class OfClass:
    """The held-out pictures of one label: how many there are, and how many got the label."""

    label: str
    pictures: int
    right: int

    @property
    def accuracy(self) -> float:
        """The share that got the label."""
        return self.right / self.pictures


@dataclass(frozen=True)
class Confusion:
    """The number of held-out pictures of a label that got another."""

    label: str
    predicted: str
    pictures: int


@dataclass(frozen=True)
class Bin:
    """The held-out pictures whose confidence is in one tenth of 0 to 1.

    Attributes:
        pictures: their number.
        confidence: its mean; 0 if there are none.
        accuracy: the share of them that got their label; 0 if there are none.
    """

    pictures: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Threshold:
    """A percentile of the reconstruction errors of familiar pictures, and the share of them above it."""

    percentile: int
    error: float
    above: float


@dataclass(frozen=True)
class ClassesReport:
    """All that the page tells of a classifier.

    Attributes:
        figures: as in the manifest.
        left_out: labels with too few pictures, and their numbers.
        worst: the classes of least accuracy first.
        others: the number of classes that are not among them.
        confusions: the most frequent first.
        bins: `BINS` of them by rising confidence; none if nothing was measured.
        thresholds: of the reconstruction error; none if nothing was measured.
    """

    figures: ClassifierFigures
    left_out: Sequence[tuple[str, int]]
    worst: Sequence[OfClass]
    others: int
    confusions: Sequence[Confusion]
    bins: Sequence[Bin]
    thresholds: Sequence[Threshold]


def describe_classes(classification: Classification) -> ClassesReport:
    """The part of the report on a classifier."""
    answers, errors = classification.answers, classification.errors
    by_class = _by_class(answers) if answers else []
    levels = [(percentile, float(np.percentile(errors, percentile))) for percentile in _PERCENTILES if len(errors)]
    return ClassesReport(
        figures=classification.figures,
        left_out=sorted(classification.classes.left_out.items(), key=lambda item: (-item[1], item[0])),
        worst=by_class[:_MOST_CLASSES],
        others=len(by_class[_MOST_CLASSES:]),
        confusions=_confusions(answers) if answers else [],
        bins=_bins(answers) if answers else [],
        thresholds=[Threshold(percentile, error, float((errors > error).mean())) for percentile, error in levels],
    )


def _by_class(answers: Answers) -> list[OfClass]:
    pictures = Counter(answers.labels.tolist())
    right = Counter(answers.labels[answers.labels == answers.predicted].tolist())
    classes = [OfClass(label, count, right[label]) for label, count in pictures.items()]
    return sorted(classes, key=lambda one: (one.accuracy, -one.pictures, one.label))


def _confusions(answers: Answers) -> list[Confusion]:
    wrong = answers.labels != answers.predicted
    counts = Counter(zip(answers.labels[wrong].tolist(), answers.predicted[wrong].tolist(), strict=True))
    found = [Confusion(label, predicted, count) for (label, predicted), count in counts.items()]
    return sorted(found, key=lambda one: (-one.pictures, one.label, one.predicted))[:_MOST_CONFUSIONS]


def _bins(answers: Answers) -> list[Bin]:
    places = np.minimum((answers.confidence * BINS).astype(int), BINS - 1)
    right = answers.labels == answers.predicted
    bins = []
    for place in range(BINS):
        inside = places == place
        count = int(inside.sum())
        confidence, accuracy = (float(of[inside].mean()) if count else 0.0 for of in (answers.confidence, right))
        bins.append(Bin(count, confidence, accuracy))
    return bins
