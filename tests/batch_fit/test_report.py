"""The report: complete, readable without a network, and the same for the same fit."""

from __future__ import annotations

import base64
import html
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from batch_fit.__main__ import VERBS as FIT
from batch_fit.classes import Classes
from batch_fit.classification import Answers, Classification
from batch_fit.held_back import Evidence, HeldBack, is_held_back
from batch_fit.report.charts import scatter_chart
from batch_fit.report.classes import ClassesReport, describe_classes
from batch_fit.report.describe import describe_worst
from batch_fit.report.pictures import Sample, Worst, choose_pictures
from batch_fit.report.report import FitReport, Rejections, render, with_thumbnails
from batch_fit.sides import SideFigures, SidesCompared
from batch_fit.statistics import Statistics
from conf.cli import make_parser
from conf.emr.package import _archive, _code
from conf.loading import load_settings
from streaming.__main__ import VERBS as STREAM
from streaming.features.classifier import Classifier
from streaming.forget.models import _NAMED
from streaming.registry.bundle import BundleManifest, HeldBackFigures, ModelComparison
from streaming.storage.folder import identity_of
from tests.support.streams import PROJECT

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


def test_the_page_loads_nothing() -> None:
    page = Page(render(report_of()))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not page.all("src")  # with thumbnails, as data: see below
    assert not [value for name in ("href", "xlink:href") for value in page.all(name) if not value.startswith("#")]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.all("content")
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


def test_every_picture_of_the_sample_is_a_point_that_tells_its_path_and_every_label_can_be_chosen() -> None:
    report = report_of()
    rendered = render(report)
    page = Page(rendered)
    assert points(page) == 583
    assert {*report.sample.paths} <= named_in(rendered)
    assert "all 583 Fruit 0 13 Fruit 1 10 Fruit 10 10 Fruit 11 10" in page.words
    chosen = re.findall(r"#label-(\d+):checked\) #scatter-group-(\d+) \{", rendered)
    assert chosen == [(str(number), str(number)) for number in range(58)]
    assert {f"label-{number}" for number in range(58)} | {f"scatter-group-{number}" for number in range(58)} <= {
        *page.all("id")
    }


def test_a_point_tells_of_its_own_picture() -> None:
    """The points of a label stand in its element, in the order of the sample."""
    sample = sample_of(["a", "b", "c"] * 20)
    [of_b] = re.findall(
        r'<g id="scatter-group-1">(.*?)</g>', scatter_chart(sample, ["a", "b", "c"], shares()), re.DOTALL
    )
    assert re.findall("<title>(.*?)</title>", of_b) == sample.paths[1::3]
    across = [float(x) for x in re.findall(r' x="([\d.]+)"', of_b)]
    assert np.argsort(across).tolist() == np.argsort(sample.scores[1::3, 0]).tolist()


def test_one_label_and_one_component_still_make_a_picture() -> None:
    page = Page(render(report_of(k=1, labels=["Only"])))
    assert points(page) == 13
    assert "There is no second component" in page.words
    assert "PC 2" not in page.words
    assert "other label" not in page.words


def test_nothing_quarantined_and_nothing_new_are_said() -> None:
    report = replace(
        report_of(from_version="20261001T000000Z-00000000", quarantined=0),
        labels={},
        quarantined=[],
        sample=sample_of([]),
        worst=worst_of([]),
    )
    words = Page(render(report)).words
    assert "Every picture that was read could be used." in words
    assert "This fit has read no new pictures" in words
    assert "Added to 20261001T000000Z-00000000 , 583 pictures" in words
    assert "The worst expressed" not in words


def test_a_sample_is_called_one() -> None:
    report = replace(report_of(pictures=24_000, limit=25_000), labels={"Fruit 0": 24_000})
    words = Page(render(report)).words
    assert "583 pictures of 24,000, chosen by the hash of their paths." in words
    assert "Limit 25,000 pictures" in words


def test_random_weights_are_shouted_about_and_others_are_not() -> None:
    assert "Random weights." in Page(render(report_of(weights="random:7"))).words
    assert "Random weights." not in Page(render(report_of())).words


HOSTILE = '<script>alert("$x^2$ & more")</script>'


def test_the_page_says_how_good_a_classifier_is() -> None:
    page = Page(render(replace(report_of(), classes=classes_of(LABELS[:6]))))
    for said in (
        "6 labels can be predicted. 87.5% of 120 pictures held back got their own label",
        "Pictures of one object from other angles make this look better than it is.",
        "Fit with --holdout folder or prefix to hold back whole series.",
        "5.0% are above 95 (percentile 95) and 1.0% are above 99 (percentile 99)",
        "2 labels with fewer than 10 pictures left out Never predicted Label Pictures Rare 3 Rarer 2",
        "the worst first Label Right Fruit 5 15 of 20 Fruit 4 16 of 20 Fruit 3 17 of 20",
        "confusions Label, and what it was taken for Pictures Fruit 5 as Fruit 0 5 Fruit 4 as Fruit 0 4",
    ):
        assert said in page.words
    assert page.all("role").count("img") == 3
    assert "Pictures that got their label, by confidence: 0% of 15 from 40%, 100% of 105 from 90%" in page.all(
        "aria-label"
    )
    assert page.tags.count("caption") == page.tags.count("table")
    assert len(page.all("id")) == len(set(page.all("id")))
    assert "Classes" not in Page(render(report_of())).words


def test_many_classes_are_cut_to_the_worst_and_the_rest_is_counted() -> None:
    report = classes_of()
    assert (len(report.worst), report.others, len(report.confusions)) == (30, 28, 20)
    assert [one.accuracy for one in report.worst] == sorted(one.accuracy for one in report.worst)
    words = Page(render(replace(report_of(), classes=report))).words
    assert "28 more, each with 0.0% or better" in words


def test_a_classifier_that_was_not_measured_is_not_praised() -> None:
    words = Page(render(replace(report_of(), classes=classes_of(measured=False)))).words
    assert "Too few pictures were held back to tell how often that is right." in words
    assert "confusions" not in words
    assert "percentile" not in words
    words = Page(render(replace(report_of(), classes=classes_of(holdout="prefix")))).words
    assert "Here whole series were held back ( --holdout prefix )" in words


def test_another_side_is_compared_with_224_pixels() -> None:
    """Or it says why not; a model of 224 pixels has nothing to be compared with."""
    own = SideFigures(160, 185.04, 97, 0.987, 321.4, 506.6)
    default = SideFigures(224, 100.0, 104, 0.991, 343.0, 1523.0)
    report = replace(
        report_of(side=160), sides=SidesCompared(215, 1000, 0.9, 0.704, own, default), classes=classes_of()
    )
    page = Page(render(report))
    for said in (
        "Backbone sees 160 pixels",
        "160 pixels beside 224 215 held-out pictures, seen by the same weights at both sides",
        "Pictures per second of a core 185.0 100.0",
        "Components for 90.0% of the variance 97 104",
        "Label of the nearest neighbour is right 98.7% 99.1%",
        "Reconstruction error, median 321 343",
        "Reconstruction error, percentile 95 507 1,523",
        "fitted to 1,000 other pictures of this fit",
        "1.85 times as many pictures",
        "nearest neighbours of a picture at 224 pixels, 70.4% are so at 160 pixels, too",
        "how often the classifier is right is told below, at 160 pixels only.",
    ):
        assert said in page.words
    assert page.tags.count("caption") == page.tags.count("table")
    unlabelled = SidesCompared(215, 1000, 0.9, 0.7, replace(own, accuracy=None), replace(default, accuracy=None))
    assert "Label of the nearest" not in Page(render(replace(report, sides=unlabelled))).words
    assert "too few to compare with 224 pixels" in Page(render(replace(report, sides=None))).words
    assert "beside 224" not in Page(render(report_of())).words


def test_names_are_text_and_nothing_else() -> None:
    report = replace(
        report_of(labels=[HOSTILE, ""], input=HOSTILE, weights=HOSTILE),
        classes=classes_of([HOSTILE, "b"]),
        quarantined=[Rejections(HOSTILE, 1, [(HOSTILE, HOSTILE)])],
        seconds={HOSTILE: 1.0},
    )
    page = Page(render(report))
    assert "script" not in page.tags
    assert page.words.count(HOSTILE) >= 10
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


def test_forget_finds_every_example_in_the_page() -> None:
    """It reads the whole content of an element `code` as a path, whatever characters that has."""
    paths = [HOSTILE, "/pictures/it's  a\npicture.jpg", "/pictures/{{ path }}.jpg"]
    page = render(replace(report_of(), quarantined=[Rejections("empty", 3, [(path, "") for path in paths])]))
    assert {*paths} <= named_in(page)


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


@pytest.mark.parametrize("is_on_embeddings", [False, True])
def test_the_page_ends_with_commands_that_the_programs_take(is_on_embeddings: bool) -> None:  # noqa: FBT001 - parameter
    names = ("--include", "*.jpg")
    page = Page(render(replace(report_of(input="/pic tures"), is_on_embeddings=is_on_embeddings, names=names)))
    parsers = {"batch_fit": make_parser("batch_fit", "", FIT), "streaming": make_parser("streaming", "", STREAM)}
    words = page.words.partition("What to do next")[2]
    commands = [shlex.split(one) for one in re.findall(r"python -m .*?(?= [A-Z][a-z]+ |$)", words)]
    assert len(commands) == 5
    for _, _, program, *rest in commands:
        parsers[program].parse_args(rest)
    source = ["--output" if is_on_embeddings else "--input", "/pic tures"]
    assert commands[0][2:6] == ["streaming", "export" if is_on_embeddings else "replay", *source]
    assert (commands[0][6:8] == [*names]) != is_on_embeddings


@pytest.mark.parametrize(
    ("from_version", "is_on_embeddings", "how"),
    [(None, False, "with"), ("one", False, "without --from, and with"), ("one", True, "with")],
)
def test_a_fit_with_a_classifier_is_the_same_fit(from_version: str | None, is_on_embeddings: bool, how: str) -> None:  # noqa: FBT001 - parameter
    """With all its options, of which the manifest knows some; and streams go on with the model that they have."""
    page = Page(render(replace(report_of(from_version=from_version), is_on_embeddings=is_on_embeddings)))
    options = "--classify --holdout prefix --promote never"
    assert f"the command of this fit {how} {options}" in page.words
    needed = ["fit", "--input", "IN", "--models", "MODELS", "--side", "160"]
    parsed = vars(make_parser("batch_fit", "", FIT).parse_args([*needed, *options.split()]))
    assert (parsed["fit.classify"], parsed["fit.promote"]) == (True, "never")


def test_the_page_is_made_from_a_zip_file_too(tmp_path: Path) -> None:
    """As on a cluster, which imports the programs from the archive that `conf.emr.package` makes."""
    archive = tmp_path / "application.zip"
    _archive(_code(), PROJECT, archive)
    program = "from batch_fit.report import report; print(report.__file__, report.template().name)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(archive)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [f"{archive}/batch_fit/report/report.py", "report.html.j2"], done.stderr
