"""Files that other people's cameras and programs wrote, with the outcome of each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streaming.features.imaging import Rejected
from tests.support.data import shared_data
from tests.support.oddities import ODDITIES
from tests.support.pictures import outcome


@pytest.mark.parametrize("name", ODDITIES)
def test_an_odd_file_has_exactly_the_outcome_of_the_table(name: str) -> None:
    """Names mean nothing: PNG files called .jpg are pictures, texts called .jpg are not."""
    found = outcome((shared_data() / "oddities" / name).read_bytes())
    assert (found.reason if isinstance(found, Rejected) else (found.width, found.height)) == ODDITIES[name]


def test_the_table_has_every_odd_file() -> None:
    folder = shared_data() / "oddities"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(ODDITIES)
    assert len(ODDITIES) == 66


def test_a_worker_says_nothing_of_odd_files_and_stays_small() -> None:
    """What is wrong with a picture stands in its row; a worker's stderr is for what is wrong with the worker."""
    program = """
import sys
import zlib
from pathlib import Path
from streaming.features.imaging import Limits, Rejected, decode
for path in Path(sys.argv[1]).rglob("*.*"):
    try:
        decode(path.read_bytes(), Limits(64 * 1024**2, 50_000_000))
    except Rejected:
        pass
print(*{"pyspark", "tensorflow", "pydantic", "pillow_heif"} & sys.modules.keys())
"""
    command = [sys.executable, "-c", program, str(shared_data() / "oddities")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "\n")
