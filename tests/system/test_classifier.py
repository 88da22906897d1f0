"""The commands and queries of docs/classifier.md, run as they stand there, on photographs of fruit and of anything."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import duckdb
import pytest

from tests.support.data import shared_data
from tests.support.pages import block, run_commands, run_python
from tests.support.streams import PROJECT

pytestmark = pytest.mark.usefixtures("programs")

PAGE = (PROJECT / "docs" / "classifier.md").read_text(encoding="utf-8")


def test_the_page_of_the_classifier_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs of anything are among the unfamiliar pictures of both queries, and most of the fruit is not."""
    fruits = sorted((shared_data() / "fruits360").iterdir())[:3]
    for fruit in fruits:
        shutil.copytree(fruit, tmp_path / "pictures" / fruit.name)
    fit, replay = block(PAGE, "sh", "--classify").strip().splitlines()
    said = run_commands(fit, tmp_path)
    accuracy = re.search(r"\nclasses +3, accuracy (\S+)% on \d+ held-out pictures \(--holdout picture\)\n", said)
    assert accuracy, said
    assert float(accuracy[1]) > 80  # of some 17 pictures, held out by the hash of their paths
    others = [*(shared_data() / "camera").rglob("*.jpg")]
    for number, file in enumerate(others):
        shutil.copy(file, tmp_path / "pictures" / f"{number}.jpg")
    run_commands(replay, tmp_path)
    monkeypatch.chdir(tmp_path)
    found = duckdb.connect().execute(block(PAGE, "sql", "reconstruction_error")).fetchall()
    assert {path for path, *_ in found} >= {f"{tmp_path}/pictures/{number}.jpg" for number in range(len(others))}
    assert {label for _, label, *_ in found} <= {fruit.name for fruit in fruits}
    told = run_python(block(PAGE, "python", "unfamiliar") + 'print("rows", len(unfamiliar))\n', tmp_path)
    assert told.endswith(f"rows {len(found)}\n")
