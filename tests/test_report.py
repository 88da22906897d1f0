"""The report: complete, readable without a network, and the same for the same fit."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from numpy.typing import NDArray

from batch_fit.report import FitReport, Quarantined, render
from streaming.features.bundle import Comparison, HeldBackFigures

LABELS = [f"Fruit {number}" for number in range(58)]


def shares(count: int = 1280) -> NDArray[np.float64]:
    falling = np.geomspace(1, 1e-4, count)
    share: NDArray[np.float64] = falling / falling.sum()
    return share


def report_of(k: int = 12, labels: list[str] = LABELS) -> FitReport:
    """A fit on 10 pictures for each label, and 3 more for the first."""
    score_labels = labels * 10 + labels[:1] * 3
    return FitReport(
        version="20261121T095147Z-1a2b3c4d",
        created_at=datetime(2026, 11, 21, 9, 51, 47, tzinfo=UTC),
        weights="imagenet",
        input="/pictures/in",
        limit=None,
        from_version=None,
        held_back=HeldBackFigures(pictures=58, variance_kept=0.431, error_p50=700, error_p95=1100),
        comparison=Comparison(current="20260101T000000Z-00000000", reason="it keeps more than <that>"),
        pictures=len(score_labels),
        labels={label: score_labels.count(label) for label in labels},
        quarantined=[
            Quarantined("empty", 1, [("/pictures/in/a/nothing.jpg", "the file has no bytes")]),
            Quarantined("corrupt", 1234, [("/pictures/in/b/half.png", "this PNG does not decode")]),
        ],
        seconds={"list the pictures": 0.04, "featurize and fold": 192.3},
        explained_variance=shares(),
        k=k,
        variance_target=0.5,
        scores=np.random.default_rng(0).normal(size=(len(score_labels), k)).astype(np.float32),
        score_labels=score_labels,
    )


class Page(HTMLParser):
    """Collects what a page is made of, and checks that its elements are closed in order."""

    VOID = ("meta", "br", "path", "use", "circle", "rect")

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


def points(page: Page) -> int:
    """How many pictures the scatter plot shows."""
    return sum(reference.startswith("#scatter-m") for reference in page.all("xlink:href")) - ticks(page)


def ticks(page: Page) -> int:
    return sum(re.fullmatch(r"scatter-[xy]tick_\d+", name) is not None for name in page.all("id"))


def test_the_page_loads_nothing() -> None:
    page = Page(render(report_of()))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not page.all("src")
    assert not [value for name in ("href", "xlink:href") for value in page.all(name) if not value.startswith("#")]
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.all("content")
    assert not re.search(r"https?:|@import|url\((?!#)", render(report_of()))


def test_the_page_says_what_was_fitted_on_what_and_how_long_it_took() -> None:
    words = Page(render(report_of())).words
    for said in (
        "20261121T095147Z-1a2b3c4d",
        "21 November 2026, 09:51 UTC",
        "Weights imagenet",
        "Input /pictures/in",
        "Limit none: all pictures",
        "Of 58 pictures held back at first, a model of as many components that had not seen them keeps 43.1%",
        "Against the model that was current: it keeps more than <that>.",
        "Read 1,818 pictures, of which 583 could be used",
        "Pictures by label, of 58 labels",
        "Fruit 0 13",
        "Fruit 57 10",
        "corrupt 1,234 pictures /pictures/in/b/half.png this PNG does not decode",
        "empty 1 picture /pictures/in/a/nothing.jpg the file has no bytes",
        "list the pictures 0.0 s",
        "featurize and fold 3 min 12 s",
    ):
        assert said in words


@pytest.mark.parametrize("k", [1, 2, 5, 12, 400, 1000, 1280])
def test_the_chosen_k_and_its_share_are_marked(k: int) -> None:
    words = Page(render(report_of(k))).words
    kept = f"{shares()[:k].sum():.1%}"
    assert f"Kept: {k:,} of 1,280 components (the fewest that reach 50%), which is {kept} of the variance" in words
    assert f"k = {k:,} {kept}" in words


def test_every_picture_of_the_sample_is_a_point_and_every_label_is_accounted_for() -> None:
    page = Page(render(report_of()))
    assert points(page) == 583
    assert "Fruit 0 Fruit 1 Fruit 10 Fruit 11 Fruit 12 Fruit 13 Fruit 14 51 other labels" in page.words


def test_one_label_and_one_component_still_make_a_picture() -> None:
    page = Page(render(report_of(k=1, labels=["Only"])))
    assert points(page) == 13
    assert "There is no second component" in page.words
    assert "PC 2" not in page.words
    assert "other label" not in page.words


def test_nothing_quarantined_and_nothing_new_are_said() -> None:
    report = replace(
        report_of(),
        labels={},
        quarantined=[],
        from_version="20261001T000000Z-00000000",
        scores=np.empty((0, 12), np.float32),
        score_labels=[],
    )
    words = Page(render(report)).words
    assert "Every picture that was read could be used." in words
    assert "This fit has read no new pictures" in words
    assert "Added to 20261001T000000Z-00000000 , 583 pictures" in words


def test_a_sample_is_called_one() -> None:
    report = replace(report_of(), labels={"Fruit 0": 24_000}, pictures=24_000, limit=25_000)
    words = Page(render(report)).words
    assert "583 pictures of 24,000, chosen by the hash of their paths." in words
    assert "Limit 25,000 pictures" in words


def test_random_weights_are_shouted_about_and_others_are_not() -> None:
    assert "Random weights." in Page(render(replace(report_of(), weights="random:7"))).words
    assert "Random weights." not in Page(render(report_of())).words


HOSTILE = '<script>alert("$x^2$ & more")</script>'


def test_names_are_text_and_nothing_else() -> None:
    report = replace(
        report_of(labels=[HOSTILE, ""]),
        input=HOSTILE,
        weights=HOSTILE,
        quarantined=[Quarantined(HOSTILE, 1, [(HOSTILE, HOSTILE)])],
        seconds={HOSTILE: 1.0},
    )
    page = Page(render(report))
    assert "script" not in page.tags
    assert page.words.count(HOSTILE) == 8
    assert "no folder 10" in page.words


def test_the_same_fit_gives_the_same_bytes() -> None:
    assert render(report_of()) == render(report_of())


def test_what_cannot_be_seen_can_be_heard() -> None:
    page = Page(render(report_of()))
    assert page.all("lang") == ["en"]
    assert page.all("role").count("img") == 2
    assert any(text.startswith("Explained variance: the first 12 of 1280") for text in page.all("aria-label"))
    assert any(text == "583 pictures on the first two components" for text in page.all("aria-label"))
    assert page.tags.count("caption") == page.tags.count("table")
    assert len(page.all("id")) == len(set(page.all("id")))
