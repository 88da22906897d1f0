"""Answers: how they are printed, and that docs/formats.md lists the keys of each."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import pytest

from batch_fit.fitted import Converted, Fitted
from batch_fit.prune import KeptModel, Pruned, PrunedModel
from batch_fit.versions import ListedModel, ListedModels, Promoted
from conf.answers import Answer, Row, command, reading
from conf.cli import Verb, make_parser, run_program
from conf.errors import TransientError
from conf.settings import Settings
from streaming.engine.progress import Idle, Replayed
from streaming.export.answer import Planned
from streaming.forget.receipts import Receipt
from streaming.operate.findings import Findings
from streaming.operate.health import Health
from streaming.operate.quarantine import Example, Listed, RetryRequested
from streaming.operate.status import Counted, Status
from streaming.operate.stop import Stopped
from streaming.search.duplicates import Duplicate, Duplicates, Group
from streaming.search.similar import Match, Similar
from tests.support.streams import PROJECT

FORMATS = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Baked(Answer):
    cakes: int
    at: datetime

    def rows(self) -> Iterator[Row]:
        yield "baked", f"{self.cakes} cakes"
        yield "", "all of them round"
        yield "enjoy"

    def next_step(self) -> str:
        return command("bakery", "eat", "a cake")


ANSWER = Baked(3, datetime(2026, 1, 31, tzinfo=UTC))
TEXT = "baked        3 cakes\n             all of them round\nenjoy\n"
NEXT = "next         python -m bakery eat 'a cake'\n"


def bake(*words: str, attempts: Sequence[Exception] = ()) -> list[object]:
    """Run a verb that fails so often; what it was given each time."""
    given: list[object] = []

    def run(_settings: Settings, oven: object) -> Answer:
        given.append(oven)
        if len(given) <= len(attempts):
            raise attempts[len(given) - 1]
        return ANSWER

    def heat(_arguments: argparse.Namespace) -> object:
        return object()

    verb = Verb("bake", "Bake.", "Bake.", (), (), run, options=heat, json=True, waits=True)
    assert run_program("bakery", make_parser("bakery", "A bakery.", [verb]), ["bake", *words], lambda _: None) == 0
    return given


def test_people_are_told_what_to_type_next(capsys: pytest.CaptureFixture[str]) -> None:
    bake()
    assert capsys.readouterr().out == TEXT + NEXT


def test_programs_get_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    bake("--log-format", "text", "--json")
    assert capsys.readouterr().out == '{"cakes": 3, "at": "2026-01-31T00:00:00+00:00"}\n'


def test_a_verb_that_is_retried_gets_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may come from standard input, which can be read only once."""
    monkeypatch.setattr("conf.cli.pauses", lambda: iter([0.0]))
    first, second = bake(attempts=[TransientError("the oven is cold")])
    assert first is second


def test_a_path_is_quoted_for_shell_and_python() -> None:
    assert reading('/a b/"é"') == """python -c 'import pandas; print(pandas.read_parquet("/a b/\\"é\\""))'"""


def test_who_has_typed_the_installed_command_is_told_to_type_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python that it runs in need not be on the PATH."""
    assert command("streaming", "stop", "--output", "a b") == "python -m streaming stop --output 'a b'"
    monkeypatch.setattr("sys.argv", ["/opt/features/bin/picture-features", "run"])
    assert command("streaming", "stop", "--output", "a b") == "picture-features stop --output 'a b'"


def documented(verb: str) -> list[str]:
    """The keys in the row of a verb, in the order of the page."""
    [row] = [line for line in FORMATS.splitlines() if line.startswith(f"| {verb} |")]
    return re.findall(r"`(\w+)`", row.removeprefix(f"| {verb} |"))


def keys(*kinds: type) -> list[str]:
    return [field.name for kind in kinds for field in fields(kind)]


@pytest.mark.parametrize(
    ("verb", "kinds"),
    [
        ("`replay`", (Replayed, Idle)),
        ("`reconcile`", (Findings,)),
        ("`quarantine list`", (Listed, Example)),
        ("`quarantine retry`", (RetryRequested,)),
        ("`status`", (Status, Counted)),
        ("`status --check`", (Health,)),
        ("`export --dry-run`", (Planned,)),
        ("`similar`", (Similar, Match)),
        ("`duplicates`", (Duplicates, Group, Duplicate)),
        ("`stop`", (Stopped,)),
        ("`convert`", (Converted,)),
        ("`models list`", (ListedModels, ListedModel)),
        ("`models promote`, `rollback`", (Promoted,)),
        ("`models prune`", (Pruned, PrunedModel, KeptModel)),
    ],
)
def test_the_page_lists_the_keys_of_each_answer(verb: str, kinds: Sequence[type]) -> None:
    assert sorted(documented(verb)) == sorted(keys(*kinds))


def test_the_page_lists_the_keys_of_fits_and_receipts() -> None:
    assert documented("`fit`") == keys(Fitted)
    assert documented("`forget`") == [*Receipt.model_fields]
