"""What the demo shows, also where there is neither a terminal nor a network."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.notebooks import execute
from tests.support.pages import block
from tests.support.streams import PROJECT


@pytest.mark.usefixtures("programs", "backbone")
def test_the_demo_ends_with_a_table_that_one_can_show(tmp_path: Path) -> None:
    """Piped, and with random weights, because no others can be loaded."""
    unreachable = {"KERAS_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    demo = subprocess.run(
        [PROJECT / "tests/system/demo.sh", tmp_path / "demo"],
        env={**os.environ, **unreachable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    said = demo.stdout
    assert demo.returncode == 0, said
    assert not re.search(r"^\{|warning|Traceback|\.\.\. ", said, re.MULTILINE), said
    assert re.search(r"cannot be downloaded \(.*refused\); point KERAS_HOME .* --weights random:0", said), said
    assert said.index("--weights random:0\n") > said.index("# Without the ImageNet weights, random ones do")

    readme = block((PROJECT / "README.md").read_text(), "text", "reconstruction_error").splitlines()
    shown = said[said.index("label  ") :].splitlines()[: len(readme)]
    assert shown[0].split() == readme[0].split() == ["label", "PC1", "PC2", "PC3", "reconstruction_error"]
    assert sorted(label_of(row) for row in shown) == sorted(label_of(row) for row in readme)
    assert label_of(shown[-1]) == label_of(readme[-1]) == "Watermelon"

    for path in re.findall(rf"^  ({tmp_path}/\S+)", said, re.MULTILINE):
        assert Path(path).exists(), path
    for command in re.findall(r"^  (\.venv/bin/python -m streaming (?!run ).*)", said, re.MULTILINE):
        subprocess.run(command.split(), cwd=PROJECT, check=True)

    explored = execute("explore", tmp_path / "demo")
    said = "".join(output.get("text", "") for cell in explored.cells for output in cell.get("outputs", ()))
    assert "324 rows, all of model" in said
    assert re.search("28 bursts; 5[0-6] of 324 pictures could be spared", said)
    assert "the same bits as the table: True" in said
    assert "the same labels: True" in said


def label_of(row: str) -> str:
    """The label of a row of the table that is printed."""
    label, *_ = re.split(r" +-?\d| {2,}", row)
    return label
