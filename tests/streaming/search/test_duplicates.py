"""Duplicates: the same bytes, and chains of near pictures; of each group the right one is kept."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from streaming.__main__ import main as stream
from streaming.lease.denylist import Entry, add_entry, make_salt
from streaming.output.manifests import prepare_log
from streaming.search import scenes, vectors
from streaming.search.choices import WITHIN
from streaming.search.groups import Groups
from streaming.search.scenes import join_near
from streaming.search.vectors import Vectors
from streaming.storage.folder import Folder
from tests.support.small_table import commit_features

FAR = ([1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0])


@pytest.fixture
def table(output: Folder) -> Folder:
    prepare_log(output)
    return output


class _Asked:
    def __init__(self, table: Folder, capsys: pytest.CaptureFixture[str]) -> None:
        self._table = table
        self._capsys = capsys

    def __call__(self, *more: str) -> dict[str, Any]:
        self._capsys.readouterr()
        assert stream(["duplicates", "--table", self._table.root, "--json", *more]) == 0
        answer: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return answer

    def groups(self, *more: str) -> list[list[str]]:
        """The names of the pictures of each group, in order."""
        return [[one["path"].removeprefix("/p/") for one in group["pictures"]] for group in self(*more)["groups"]]


@pytest.fixture
def ask(table: Folder, capsys: pytest.CaptureFixture[str]) -> _Asked:
    return _Asked(table, capsys)


def _turned(degrees: float) -> list[float]:
    return [float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees))), 0, 0]


def test_pictures_with_the_same_bytes_are_a_group(table: Folder, ask: _Asked) -> None:
    digests = ["a" * 64, "b" * 64, "a" * 64, None]
    commit_features(table, 0, dict(zip(("/p/2", "/p/3", "/p/1", "/p/4"), FAR, strict=True)), sha256=digests)
    commit_features(table, 1, {"/p/5": [0, 1, 1, 0]}, sha256=[None])
    answer = ask()
    assert [(group["kind"], group["why"]) for group in answer["groups"]] == [("same-bytes", "most-bytes")]
    assert ask.groups() == [["1", "2"]]  # small_table has the lengths rise in a manifest
    assert (answer["spare"], answer["spare_bytes"], answer["compared"]) == (1, 0, 5)


def test_near_pictures_are_of_one_scene_also_by_way_of_others(table: Folder, ask: _Asked) -> None:
    step = np.degrees(np.arccos(1 - 0.05))
    for number, degrees in enumerate((0, 0.9 * step, 1.8 * step, 3 * step, 90)):
        commit_features(table, number, {f"/p/{number}": _turned(degrees)})
    assert ask.groups("--within", "0.05") == [["0", "1", "2"]]
    distances = [one["distance"] for one in ask("--within", "0.05")["groups"][0]["pictures"]]
    assert distances[0] == 0
    assert distances[1] < 0.05 < distances[2]
    assert ask.groups("--within", "0") == []


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"width": [3, 2], "height": [2, 2], "length": [1, 9]}, "most-pixels"),
        ({"width": [2, 4], "height": [2, 1], "length": [9, 1]}, "most-bytes"),
        (
            {
                "length": [1, 1],
                "modification_time": [datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)],
            },
            "oldest",
        ),
        ({"length": [1, 1]}, "first-by-path"),
    ],
)
def test_the_best_picture_is_kept(columns: dict[str, Any], why: str, table: Folder, ask: _Asked) -> None:
    commit_features(table, 0, {"/p/keep": FAR[0], "/p/spare": FAR[0]}, **columns)
    [group] = ask()["groups"]
    assert (group["why"], [one["path"] for one in group["pictures"]]) == (why, ["/p/keep", "/p/spare"])


def test_a_burst_is_of_one_camera_within_a_time(table: Folder, ask: _Asked) -> None:
    rows: dict[str, tuple[str | None, str | None]] = {
        "first": ("Canon A", "2026-01-31T10:00:00.25"),
        "second": ("Canon A", "2026-01-31T10:00:08"),
        "third": ("Canon A", "2026-01-31T10:00:16"),
        "later": ("Canon A", "2026-01-31T10:00:27"),
        "other camera": ("Canon B", "2026-01-31T10:00:01"),
        "with an offset": ("Canon A", "2026-01-31T10:00:02+00:00"),
        "elsewhere": ("Canon A", "2026-01-31T12:00:03+02:00"),
        "without a time": ("Canon A", None),
        "without a camera": (None, "2026-01-31T10:00:00"),
    }
    cameras, times = zip(*rows.values(), strict=True)
    commit_features(
        table, 0, {f"/p/{name}": FAR[0] for name in rows}, camera=cameras, captured_at=times, length=[1] * 9
    )
    commit_features(
        table, 1, {"/p/another scene": FAR[1]}, camera=["Canon A"], captured_at=["2026-01-31T10:00:00"], length=[1]
    )
    assert len(ask.groups()[0]) == 9
    assert sorted(map(sorted, ask.groups("--burst", "10s"))) == [
        ["elsewhere", "with an offset"],
        ["first", "second", "third"],
    ]
    assert ask("--burst", "10s")["untimed"] == 2


def test_scenes_are_compared_in_one_model_and_bytes_in_all(table: Folder, ask: _Asked) -> None:
    commit_features(table, 0, {"/p/1": FAR[0], "/p/2": FAR[0]}, sha256=["a" * 64, "b" * 64])
    commit_features(table, 1, {"/p/3": [1, 0], "/p/4": [1, 0]}, model="two", sha256=["a" * 64, "c" * 64])
    answer = ask()
    assert (answer["model"], answer["left_out"]) == ("two", 2)
    assert sorted(map(sorted, ask.groups())) == [["1", "3", "4"]]
    assert [one["distance"] is None for one in answer["groups"][0]["pictures"]].count(True) == 1
    assert sorted(ask.groups("--model", "one")[0]) == ["1", "2", "3"]
    assert stream(["duplicates", "--table", table.root, "--model", "three"]) == 2


def test_a_forgotten_picture_is_not_shown_and_connects_no_others(table: Folder, ask: _Asked) -> None:
    step = np.degrees(np.arccos(1 - WITHIN))
    commit_features(table, 0, {f"/p/{number}": _turned(0.9 * step * number) for number in range(3)})
    assert len(ask.groups()[0]) == 3
    add_entry(table, Entry.of(["/p/1"], [], make_salt(table), datetime.now(UTC)))
    assert ask.groups() == []


def test_the_text_names_what_to_keep(table: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    commit_features(table, 0, {"/p/1.jpg": FAR[0], "/p/2.jpg": FAR[0]}, length=[5, 5])
    assert stream(["duplicates", "--table", table.root]) == 0
    assert capsys.readouterr().out.splitlines()[3:-1] == [
        "groups       1: 0 of the same bytes, 1 of the same scene",
        "to spare     1 picture, 5 bytes",
        "",
        "same-scene, 2 pictures",
        "  keep   /p/1.jpg  1 x 2, 5 bytes: all are alike; first by path",
        "  spare  /p/2.jpg  1 x 2, 5 bytes: 0.0000",
    ]


@pytest.mark.parametrize("words", [["--within", "2"], ["--within", "near"], ["--burst", "10"]])
def test_a_wrong_limit_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert stream(["duplicates", "--table", "nowhere", *words]) == 2


@pytest.mark.parametrize("pairs", [scenes._PAIRS, 16])
@pytest.mark.parametrize("k", [5, 120])
def test_blocks_find_the_groups_that_all_pairs_give(k: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer components than are kept in memory and with more; where few pairs are near, and where nearly all."""
    monkeypatch.setattr(scenes, "_BLOCK", 64)
    monkeypatch.setattr(scenes, "_PAIRS", pairs)
    random = np.random.default_rng(k)
    centres = random.normal(size=(40, k)) * np.geomspace(3, 0.1, k)
    rows = np.concatenate(
        [
            np.repeat(centres, 7, axis=0) + random.normal(size=(280, k)) * 0.02,
            centres[:1] + random.normal(size=(150, k)) * 0.001,
            np.zeros((3, k)),
        ]
    ).astype(np.float32)
    rows = rows[random.permutation(len(rows))]
    unit = rows / np.maximum(np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True), 1e-30)
    for within in (0.0005, 0.005, 0.3):
        near = np.argwhere(np.triu(1 - unit @ unit.T <= within, 1))
        expected = Groups(len(rows))
        for one, other in near:
            expected.join(np.array([one]), np.array([other]))
        with Vectors() as made:
            made.add(rows[:100], np.arange(100))
            made.add(rows[100:], np.arange(100, len(rows)))
            made.finish()
            assert made.short.shape[1] == (6 if k == 5 else vectors._LEADING + 1)
            groups = Groups(len(rows))
            join_near(made, np.arange(len(rows)), within, groups)
        found = {tuple(group) for group in groups.several()}
        assert found == {tuple(group) for group in expected.several()}
        assert found


def test_groups_are_what_pairs_connect() -> None:
    random = np.random.default_rng(0)
    pairs = random.integers(0, 200, size=(2, 120))
    groups = Groups(200)
    for at in range(0, 120, 40):
        groups.join(pairs[0, at : at + 40], pairs[1, at : at + 40])
    sets = [{number} for number in range(200)]
    for one, other in pairs.T:
        [first], [second] = ([each for each in sets if number in each] for number in (one, other))
        if first is not second:
            sets.remove(second)
            first |= second
    assert sorted(map(sorted, (each for each in sets if len(each) > 1))) == sorted(
        group.tolist() for group in groups.several()
    )
    together = {*map(frozenset, sets)}
    for one, other in combinations(range(0, 200, 7), 2):
        roots = groups.roots(np.array([one, other]))
        assert (roots[0] == roots[1]) == any({one, other} <= each for each in together)


def test_a_full_folder_of_temporary_files_is_named(
    table: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The vectors of all rows are there."""
    commit_features(table, 0, {"/p/a.jpg": FAR[0]})
    monkeypatch.setattr(
        "streaming.search.vectors.tempfile.TemporaryFile", lambda **_: os.fdopen(os.open("/dev/full", os.O_RDWR), "wb")
    )
    assert stream(["duplicates", "--table", table.root]) == 6
    assert f"{tempfile.gettempdir()}: No space left on device; free some space there" in capsys.readouterr().err
