"""The pictures of a report: which ones are chosen, and how they stand in the page."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from batch_fit.held_back import Evidence, HeldBack, is_held_back
from batch_fit.report.describe import describe_worst
from batch_fit.report.pictures import choose_pictures
from batch_fit.report.report import FitReport, Rejections, render, with_thumbnails
from batch_fit.statistics import Statistics
from conf.loading import load_settings
from streaming.storage.folder import identity_of
from tests.support.reports import LABELS, Page, named_in, report_of, sample_of, worst_of


def test_the_pictures_that_say_most_are_chosen() -> None:
    """Those at the ends of the first four components, and for each label the most typical one."""
    scores = np.zeros((40, 5), np.float32)
    scores[:, 0] = [*range(20), *range(20)]
    scores[20:, 1] = 100
    labels = ["low"] * 20 + ["high"] * 20
    sample = replace(sample_of(labels), scores=scores)
    chosen = choose_pictures(sample)
    assert [ends.component for ends in chosen.ends] == [1, 2, 3, 4]
    assert {*chosen.ends[0].low} == {sample.paths[place] for place in (0, 20, 1, 21, 2, 22)}
    assert {*chosen.ends[0].high} == {sample.paths[place] for place in (17, 37, 18, 38, 19, 39)}
    assert [label for label, _, _ in chosen.typical] == ["high", "low"]
    assert chosen.typical[1] == ("low", 20, sample.paths[9])


def test_the_worst_expressed_are_held_out_strangers() -> None:
    """Of pictures that vary in two directions, and two of another kind; a model that was fitted to these knows them."""
    random = np.random.default_rng(0)
    plane = random.normal(size=(2, 1280)).astype(np.float32)
    paths = [f"/in/{number}.jpg" for number in range(400)]
    features = (random.normal(size=(400, 2)) @ plane + random.normal(scale=0.01, size=(400, 1280))).astype(np.float32)
    held = [place for place, path in enumerate(paths) if is_held_back(identity_of(path))]
    strangers = held[:2]
    features[strangers] += 3 * random.normal(size=(2, 1280)).astype(np.float32)
    others = Statistics.of(np.delete(features, held, axis=0))
    evidence = Evidence(others, HeldBack.of({identity_of(paths[place]): features[place] for place in held}))
    worst = describe_worst(evidence, pa.table({"path": paths}), 2)
    assert worst
    assert (worst.measured, worst.held_out, len(worst.pictures)) == (len(held), True, 12)
    assert {path for path, _ in worst.pictures[:2]} == {paths[place] for place in strangers}
    assert worst.pictures[1][1] > 10 * worst.pictures[2][1]
    assert describe_worst(evidence, pa.table({"path": ["/in/unread.jpg"]}), 2) is None
    assert describe_worst(Evidence(others, HeldBack.of({})), pa.table({"path": paths}), 2) is None


def test_worst_pictures_that_were_fitted_are_not_called_strangers() -> None:
    report = report_of()
    words = Page(render(replace(report, worst=replace(report.worst, held_out=False)))).words
    assert "so even strangers may have a small one" in words
    assert "Of 583 held-out pictures" in Page(render(report)).words


def test_few_pictures_are_at_one_end_only_and_none_at_no_end() -> None:
    [ends] = choose_pictures(sample_of(["a"] * 5, k=1)).ends
    assert (len(ends.low), len(ends.high)) == (2, 2)
    assert not {*ends.low} & {*ends.high}
    [alone] = choose_pictures(sample_of(["a"], k=1)).ends
    assert (alone.low, alone.high) == ([], [])
    assert [*choose_pictures(sample_of([])).paths()] == []


def test_many_labels_do_not_make_the_page_large() -> None:
    chosen = choose_pictures(sample_of([f"label {number}" for number in range(1000)]))
    assert (len(chosen.typical), chosen.others) == (200, 800)
    assert len({*chosen.paths()}) <= 48 + 200


@pytest.fixture
def pictured(pictures: list[Path], tmp_path: Path) -> FitReport:
    """A report on 60 real pictures, of which one is gone, and on a damaged one."""
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(pictures[0].read_bytes()[:-300])
    sample = sample_of([path.parent.name for path in pictures])
    paths = [*map(str, pictures[1:]), str(tmp_path / "gone.jpg")]
    return replace(
        report_of(),
        sample=replace(sample, paths=paths),
        worst=worst_of(paths),
        quarantined=[
            Rejections("corrupt", 1, [(str(cut), "it is cut off")]),
            Rejections("crashed", 1, [(str(pictures[0]), "its process died")]),
        ],
    )


def test_thumbnails_stand_in_the_page(pictured: FitReport, tmp_path: Path) -> None:
    """Each is at most 96 pixels wide and high; one that cannot be read is its name, and `forget` finds all of them."""
    report = with_thumbnails(pictured, load_settings({}))
    assert report.thumbnails
    rendered = render(report)
    page = Page(rendered)
    sizes = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size for uri in page.all("src")]
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in page.all("src"))
    assert {max(size) for size in sizes} == {96}
    assert len(rendered) < 1_000_000
    assert "1 picture of" in page.words
    assert f"it is no longer there 59 {tmp_path / 'gone.jpg'}" in page.words
    assert "it is cut off" in page.words
    assert report.thumbnails[str(tmp_path / "cut.jpg")].uri
    assert pictured.quarantined[1].examples[0][0] not in report.thumbnails
    assert {*report.thumbnails} <= named_in(rendered)
    for heading in ("What the components see", "A typical picture of each label", "The worst expressed"):
        assert heading in page.words


def test_without_thumbnails_there_are_numbers_and_paths(pictured: FitReport) -> None:
    page = Page(render(pictured))
    assert not page.all("src")
    assert "What the components see" not in page.words
    assert f"Picture Error {pictured.sample.paths[-1]} 59" in page.words


def test_pictures_that_cannot_be_read_are_named_and_it_says_so(pictured: FitReport) -> None:
    """As in a fit on embeddings whose pictures lie elsewhere."""
    away = replace(pictured, sample=sample_of(LABELS), worst=worst_of(["/in/a.jpg"]), quarantined=[])
    page = Page(render(with_thumbnails(away, load_settings({}))))
    assert not page.all("src")
    assert "None of the pictures could be read from here, so this page shows none." in page.words
