"""`status --watch`: looks again and again, shows what has changed, and ends when it is told to."""

from __future__ import annotations

import io
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from conf import interrupts
from conf.errors import AppError, OutputError, TransientError
from streaming.__main__ import main
from streaming.operate import status, watch
from streaming.operate.health import read_state
from streaming.output.manifests import is_log
from streaming.storage.folder import Folder
from tests.support.small_table import commit
from tests.support.streams import begin

Meanwhile = Callable[[Sequence[Callable[[], object]]], None]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _java_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal that ends a watch would end the Java that other tests share, too."""
    monkeypatch.setattr(interrupts, "_give_up", [])


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """What happens between the looks; after the last one, Ctrl-C."""

    def set_(steps: Sequence[Callable[[], object]]) -> None:
        left: Iterator[Callable[[], object]] = iter([*steps, lambda: signal.raise_signal(signal.SIGINT)])
        # In this module alone: Spark's threads of this process sleep, too.
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: next(left)())
        monkeypatch.setattr("streaming.operate.watch.time", clock)

    return set_


def _watch(output: Folder, *more: str) -> int:
    return main(["status", "--output", output.root, "--watch", "--log-format", "text", *more])


def test_each_look_is_a_line_where_there_is_no_terminal(
    output: Folder,
    meanwhile: Meanwhile,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C ends it with 0, and without a word on stderr."""
    begin(output)
    commit(output, 0, ["/a.jpg"])
    meanwhile([lambda: commit(output, 1, ["/b.jpg", "/c.jpg"])])
    assert _watch(output) == 0
    said = capsys.readouterr()
    first, second = said.out.splitlines()
    assert first.endswith(" UTC  none, unknown outstanding, unknown behind, 1 in features, 0 in quarantine")
    assert " 3 in features, 0 in quarantine" in second
    assert said.err == ""


def test_programs_get_a_document_in_each_line(
    output: Folder,
    meanwhile: Meanwhile,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begin(output)
    meanwhile([lambda: commit(output, 0, ["/a.jpg"])])
    assert _watch(output, "--json") == 0
    assert [json.loads(line)["features"]["rows"] for line in capsys.readouterr().out.splitlines()] == [0, 1]


def test_a_terminal_shows_the_latest_look_in_place(
    output: Folder,
    meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With all that `status` says."""
    begin(output)
    meanwhile([lambda: commit(output, 0, ["/a.jpg"])])
    monkeypatch.setattr(sys, "stdout", _Terminal())
    assert _watch(output) == 0
    assert isinstance(sys.stdout, _Terminal)
    _, first, second = sys.stdout.getvalue().split("\x1b[H")[-3:]
    assert "0 in features, 0 in quarantine\x1b[K\n" in first
    assert "1 in features, 0 in quarantine\x1b[K\n" in second
    assert "UTC; Ctrl-C ends this, and leaves the stream alone" in second
    assert second.endswith("\x1b[J")


@pytest.mark.parametrize(
    ("where", "right"),
    [("streaming.operate.status.read_state", read_state), ("streaming.output.places.is_log", is_log)],
)
@pytest.mark.parametrize(("error", "code"), [(TransientError("the store is gone"), 0), (OutputError("damaged"), 5)])
def test_an_outage_is_told_and_waited_for_and_no_other_error(
    output: Folder,
    meanwhile: Meanwhile,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: AppError,
    code: int,
    where: str,
    right: Callable[..., object],
) -> None:
    """Also one that is there already when the watch begins."""
    begin(output)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(where, fail)
    meanwhile([lambda: monkeypatch.setattr(where, right)])
    assert _watch(output) == code
    said = capsys.readouterr()
    if code:
        assert said.err == "error: damaged\n"
        return
    first, second = said.out.splitlines()
    assert first == "the store is gone; asking again"
    assert " 0 in features" in second


def test_an_outage_is_no_document(
    output: Folder,
    meanwhile: Meanwhile,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program reads one in each line of stdout, so it is told on stderr."""
    begin(output)

    def fail(*_: object) -> None:
        raise TransientError("the store is gone")

    monkeypatch.setattr("streaming.operate.status.read_state", fail)
    meanwhile([lambda: monkeypatch.setattr("streaming.operate.status.read_state", read_state)])
    assert _watch(output, "--json") == 0
    said = capsys.readouterr()
    assert [json.loads(line)["output"] for line in said.out.splitlines()] == [output.root]
    [line] = said.err.splitlines()
    assert line.endswith(" warning: the store is gone; asking again")


def test_its_reader_may_have_seen_enough(
    output: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Like `head`."""

    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    begin(output)
    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(SystemExit, match=r"^0$"):
        _watch(output)
    assert capsys.readouterr().err == ""


def test_it_rests_for_most_of_the_time(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that takes long, as on S3, is followed by a longer pause."""
    clock, rests = iter([0.0, 0.1, 10.0, 13.0]), list[float]()

    def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("streaming.operate.watch.time", SimpleNamespace(monotonic=lambda: next(clock), sleep=rest))
    begin(output)
    watch.watch(lambda: status.read_status(output, datetime.now(UTC)), as_json=False)
    assert rests == [2.0, 15.0]


def test_a_watch_is_not_a_check(output: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert _watch(output, "--check") == 2
    assert "not allowed with argument" in capsys.readouterr().err
