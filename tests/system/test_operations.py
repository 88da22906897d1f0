"""The runbook's commands, run as they stand there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pages import blocks, run_commands, run_python, start_commands, unlisted
from tests.support.streams import PROJECT, Place

pytestmark = pytest.mark.usefixtures("programs")

RUNBOOK = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
FORMATS = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")


def test_the_runbook_does_what_it_says(
    place: Place, pictures: list[Path], broken: list[Path], wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """All its blocks, in the order of the page, on a table with good, broken and personal pictures."""
    place.promote_another(1)
    here = place.root
    place.source.rename(here / "pictures")
    for folder, files in (("apple", pictures[:20]), ("broken", broken), ("person-7", pictures[20:25])):
        (here / "pictures" / folder).mkdir()
        for file in files:
            shutil.copy(file, here / "pictures" / folder)
    run, *others = blocks(RUNBOOK, "sh")
    stream = start_commands(run, here)
    wait_for(lambda: len(list((here / "table").glob("features/*/2*.parquet"))) > 0)
    said = [run_commands(commands, here) for commands in others]
    stream.communicate(timeout=180)
    assert stream.returncode == 0
    status, stop, replay, quarantine, reconcile, rollback, export, forget, prune = said
    assert "stream       process" in status
    assert re.search(r"recently +29 pictures in 1 micro-batch from ", status)
    assert "\nhealthy: process" in status
    assert "stopped" in stop
    assert "nothing new" in replay
    assert "corrupt" in quarantine
    assert re.search(r"missed +0", reconcile)
    assert re.search(r"^current +\d{8}T", rollback, re.MULTILINE)
    assert re.search(r"rows +25 of", export)
    assert "5 from features" in forget
    assert prune.startswith("would prune  0 of 2 models")
    [snippet] = blocks(RUNBOOK, "python")
    assert run_python(snippet, here).startswith("20 rows of")
    assert unlisted(FORMATS, "An output", here / "table") == []
    assert unlisted(FORMATS, "A folder of exports", here / "exports") == []
