"""A `forget` that ends anywhere is finished by the next one, and Spark does the same as this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pyspark.sql import SparkSession

from conf.loading import load_settings
from streaming.__main__ import main as stream
from streaming.forget import run as forget
from streaming.forget import sweeper
from streaming.forget.by_spark import visit_by_spark
from streaming.forget.files import File, Found
from streaming.forget.places import ErasurePlaces
from streaming.forget.receipts import write_receipt
from streaming.forget.sweeper import erase
from tests.support.forgetting import (
    GIVEN_UP,
    LEASES,
    REMOVED,
    asked_of,
    check_gone,
    forget_words,
    one_of_each,
    restored,
    to_refit,
    tree_of,
)
from tests.support.streams import Place, run


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("when", "method", "pattern"),
    [
        ("after", "create", "_forgotten/entries/*"),
        ("before", "replace", "_snapshots/*"),
        ("before", "replace", "*/report.html"),
    ],
)
def test_a_killed_run_is_finished_by_the_next(
    when: str, method: str, pattern: str, full: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without being told the paths again, and with the counts of both."""
    before, gone = full.rows(), one_of_each(full)
    killed = run("tests.support.killing", [when, method, pattern, "1", "streaming", *forget_words(full, *gone)])
    assert killed.returncode == -9, killed.stdout
    [receipt] = asked_of(forget_words(full), capsys)
    check_gone(full, gone, before)
    assert (receipt["removed"], receipt["refit"]) == (REMOVED, to_refit(full))
    assert asked_of(forget_words(full), capsys) == []


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("step", ["search", "one table file", "log", "receipt"])
def test_a_run_that_ends_anywhere_is_finished_by_the_next(
    step: str, full: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in this process, and what is asked for next comes after. Nobody knows the paths of the first by then."""
    before, gone, nobody = full.rows(), one_of_each(full), str(full.source / "nobody's.jpg")

    def die(*arguments: Any) -> None:
        if step == "one table file":
            sweeper, files, *others = arguments
            erase(sweeper, files[:1], *others)
        if step == "receipt":
            context.setattr(arguments[0], "delete", die_at_once)
            write_receipt(*arguments)
        raise _KilledError

    def die_at_once(name: str) -> None:
        raise _KilledError

    where = {
        "search": (forget, "find"),
        "one table file": (forget, "erase"),
        "log": (forget, "_erase_in_log"),
        "receipt": (forget, "write_receipt"),
    }
    with monkeypatch.context() as context:
        context.setattr(*where[step], die)
        with pytest.raises(_KilledError):
            stream(forget_words(full, *gone, nobody))
    first, second = asked_of(forget_words(full, str(full.source / "never seen.jpg")), capsys)
    check_gone(full, gone, before)
    assert (first["removed"], first["refit"]) == (REMOVED, to_refit(full))
    assert [(one["where"], one["asked"]) for one in first["unmatched"]] == [(f"PATH {len(gone) + 1}", None)]
    assert (second["removed"], second["refit"]) == ({}, [])
    assert [one["asked"] for one in second["unmatched"]] == [str(full.source / "never seen.jpg")]


class _Clock:
    """Each look at it takes a second."""

    def __init__(self) -> None:
        self._now = 0

    def monotonic(self) -> int:
        self._now += 1
        return self._now


@pytest.mark.usefixtures("jvm")
def test_spark_finds_and_erases_the_same(
    full: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes over in the middle of a search; all files are the same to the byte, and so are answers and errors."""
    places = ErasurePlaces.of(load_settings({"output": str(full.output)}))
    gone, searched = one_of_each(full), places.files()

    def erased() -> tuple[dict[str, Any], dict[str, str]]:
        salt = restored(full).output / "_forgotten" / "salt"
        salt.parent.mkdir()
        salt.write_bytes(bytes(32))
        [receipt] = asked_of(forget_words(full, *gone), capsys)
        tree = {name: digest for name, digest in tree_of(full.root).items() if "_forgotten/" not in name}
        return {**receipt, "asked_at": None, "finished_at": None}, {**tree, **dict.fromkeys((*LEASES, GIVEN_UP), "")}

    here = erased()
    by_spark: list[int] = []

    def visit(spark: SparkSession, files: Sequence[File], *others: Any) -> list[Found]:
        by_spark.append(len(files))
        return visit_by_spark(spark, files, *others)

    with monkeypatch.context() as context:
        context.setattr(sweeper, "visit_by_spark", visit)
        context.setattr(sweeper, "time", _Clock())
        assert erased() == here
    assert by_spark[0] == len(searched) - 9
    assert len(by_spark) > 6
    [file, *_] = (full.output / "features").glob("*/2*.parquet")
    file.write_bytes(b"PAR1")
    said = []
    for seconds in (sweeper.SECONDS_HERE, 0):
        monkeypatch.setattr(sweeper, "SECONDS_HERE", seconds)
        assert stream(forget_words(full, *gone, "--dry-run", "--log-format", "text")) == 5
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said[0] == said[1]
    assert f"{file} cannot be read: " in said[0]
