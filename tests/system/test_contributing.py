"""What CONTRIBUTING.md names is there."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest

from streaming.features.reasons import Reason
from tests.support.streams import PROJECT

PAGE = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUOTED = sorted({*re.findall(r"`([^`\n]+)`", PAGE)})
PACKAGES = ("batch_fit.", "conf.", "streaming.", "tests.")
NAMES = [quoted for quoted in QUOTED if quoted.startswith(PACKAGES) and "/" not in quoted]
FILES = [quoted for quoted in QUOTED if re.fullmatch(r"[a-z_]+(/[\w.]+)+|[a-z]+\.toml", quoted)]
TARGETS = sorted({*re.findall(r"\bmake ([a-z-]+)", PAGE)})


def _resolve(name: str) -> Any:
    """The module of this dotted name, or what it names in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_the_page_names_enough_to_be_worth_a_look() -> None:
    assert len(NAMES) >= 20
    assert len(FILES) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_in_the_code(name: str) -> None:
    assert _resolve(name) is not None


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_in_the_tree(file: str) -> None:
    assert (PROJECT / file).exists()


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_in_the_makefile(target: str) -> None:
    assert f"\n{target}: " in (PROJECT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", (PROJECT / page).read_text(encoding="utf-8")):
        assert (PROJECT / link).exists(), link


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_of_quarantine_is_explained(reason: Reason) -> None:
    table = (PROJECT / "docs" / "quarantine.md").read_text(encoding="utf-8").partition("\n\nA local file")[0]
    assert f"`{reason}`" in table
