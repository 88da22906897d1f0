"""Made-up reports of fits, and their pages as tests read them."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch_fit.classes import Classes
from batch_fit.classification import Answers, Classification
from batch_fit.report.classes import ClassesReport, describe_classes
from batch_fit.report.pictures import Sample, Worst
from batch_fit.report.report import FitReport, Rejections
from streaming.features.classifier import Classifier
from streaming.forget.models import _NAMED
from streaming.registry.bundle import BundleManifest, HeldBackFigures, ModelComparison

LABELS = [f"Fruit {number}" for number in range(58)]


def shares(count: int = 1280) -> NDArray[np.float64]:
    falling = np.geomspace(1, 1e-4, count)
    share: NDArray[np.float64] = falling / falling.sum()
    return share


def report_of(k: int = 12, labels: list[str] = LABELS, **of_model: Any) -> FitReport:
    """A fit on 10 pictures for each label, and 3 more for the first; `of_model` changes the model's manifest."""
    score_labels = labels * 10 + labels[:1] * 3
    manifest = BundleManifest(
        version="20261121T095147Z-1a2b3c4d",
        created_at=datetime(2026, 11, 21, 9, 51, 47, tzinfo=UTC),
        weights="imagenet",
        k=k,
        variance_kept=shares()[:k].sum(),
        pictures=len(score_labels),
        quarantined=1235,
        input="/pictures/in",
        limit=None,
        from_version=None,
        held_back=HeldBackFigures(pictures=58, variance_kept=0.431, error_p50=700, error_p95=1100),
        comparison=ModelComparison(current="20260101T000000Z-00000000", reason="it keeps more than <that>"),
        files={},
    )
    return FitReport(
        manifest=manifest.model_copy(update=of_model),
        models="/models",
        labels={label: score_labels.count(label) for label in labels},
        quarantined=[
            Rejections("corrupt", 1234, [("/pictures/in/b/half.png", "this PNG does not decode")]),
            Rejections("empty", 1, [("/pictures/in/a/nothing.jpg", "the file has no bytes")]),
        ],
        seconds={"list the pictures": 0.04, "featurize and fold": 192.3},
        explained_variance=shares(),
        variance_target=0.5,
        sample=sample_of(score_labels, k),
        worst=worst_of(sample_of(score_labels).paths),
    )


def sample_of(labels: Sequence[str], k: int = 12) -> Sample:
    random = np.random.default_rng(0)
    return Sample(
        paths=[f"/pictures/in/{label}/{number}.jpg" for number, label in enumerate(labels)],
        labels=labels,
        scores=random.normal(size=(len(labels), k)).astype(np.float32),
    )


def worst_of(paths: Sequence[str]) -> Worst:
    """Of held-out pictures, of which the last is the worst."""
    return Worst.of(paths, np.arange(len(paths), dtype=np.float64), held_out=True)


def classes_of(labels: list[str] = LABELS, holdout: str = "picture", *, measured: bool = True) -> ClassesReport:
    """20 held-out pictures for each label; of the one at place i, i are taken for the first label."""
    actual = np.repeat(labels, 20)
    ranks = np.tile(np.arange(20), len(labels))
    wrong = ranks < np.repeat(np.arange(len(labels)), 20)
    predicted = np.where(wrong, labels[0], actual)
    confidence = np.where(wrong, 0.45, 0.999) if measured else np.zeros(0)
    nothing = Classifier(tuple(labels), np.zeros((len(labels), 1)), np.zeros(len(labels)))
    classes = Classes("/in", tuple(labels), {"Rare": 3, "Rarer": 2})
    answers = Answers(actual, predicted, confidence) if measured else None
    return describe_classes(Classification(nothing, classes, holdout, answers, np.arange(101.0 if measured else 0)))


class Page(HTMLParser):
    """Collects what a page is made of, and checks that its elements are closed in order."""

    VOID = ("meta", "br", "path", "circle", "rect", "img", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += f" {data}"

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def all(self, name: str) -> list[str]:
        return [value for attribute, value in self.attributes if attribute == name]


def named_in(page: str) -> set[str]:
    """What `forget` finds."""
    return {html.unescape(path) for _, path in _NAMED.findall(page)}


def points(page: Page) -> int:
    """How many pictures the scatter plot shows."""
    return sum(reference.startswith("#scatter-m") for reference in page.all("xlink:href")) - ticks(page)


def ticks(page: Page) -> int:
    return sum(re.fullmatch(r"scatter-[xy]tick_\d+", name) is not None for name in page.all("id"))
