"""The report: complete, readable without a network, and the same for the same fit."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batch_fit.__main__ import VERBS as FIT
from batch_fit.report.charts import scatter_chart
from batch_fit.report.report import Rejections, render
from batch_fit.sides import SideFigures, SidesCompared
from conf.cli import make_parser
from conf.emr.package import _archive, _code
from streaming.__main__ import VERBS as STREAM
from tests.support.reports import LABELS, Page, classes_of, named_in, points, report_of, sample_of, shares, worst_of
from tests.support.streams import PROJECT


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
