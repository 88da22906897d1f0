"""Signals: a stream ends in order at any moment, other verbs are interrupted, and no Java outlives its program."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conf import interrupts
from conf.cli import Verb, make_parser, run_program
from conf.errors import AppError, LeaseHeldError, OutputError, PlatformError, TransientError
from conf.settings import Settings
from conf.spark import java_process
from conf.spark.failures import explain_failure
from streaming.lease import lease
from streaming.lease.holder import read_holder
from streaming.lease.lease import Lease
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.processes import javas
from tests.support.small_table import LONG, fill
from tests.support.streams import Place, begin, end, start

pytestmark = pytest.mark.usefixtures("programs")

Wait = Callable[..., None]


def _is_released(output: Path) -> bool:
    holder, _ = read_holder(open_folder(str(output)))
    return holder is not None and holder.released


def _handles(process: subprocess.Popen[str], number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(re.findall(r"SigCgt:\s+(\w+)", status)[0], 16) >> (number - 1) & 1)


@pytest.mark.parametrize(("verb", "code"), [("run", 0), ("replay", 0), ("status", 130)])
@pytest.mark.parametrize("program", ["streaming", "conf.command"])
def test_a_program_that_still_imports_its_parts_ends_at_once(
    program: str, verb: str, code: int, wait_for: Wait
) -> None:
    process = start(program, [verb])
    wait_for(lambda: _handles(process, signal.SIGTERM), every=0.002)
    process.terminate()
    assert (end(process), process.returncode) == ("", code)


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "lease"), (signal.SIGINT, "Java"), (signal.SIGTERM, "session")],
)
def test_a_stream_that_starts_ends_in_order(
    place: Place, pictures: list[Path], wait_for: Wait, number: signal.Signals, moment: str
) -> None:
    """With exit code 0, the lease given back, and no Java left, whatever it is doing."""
    place.put(*pictures[:1])
    logs = place.root / "logs"
    process = start("streaming", place.arguments("run", "--log-folder", str(logs)))
    reached = {
        "lease": (place.output / "_lease").exists,
        "Java": lambda: bool(javas(f"{logs}/spark")),
        # Java writes this while its part of the session is made, for which Python waits
        "session": lambda: any("SparkContext" in log.read_text() for log in logs.glob("spark-out-*.log")),
    }
    wait_for(reached[moment])
    process.send_signal(number)
    said = end(process)
    assert process.returncode == 0, said
    assert said.endswith(f" {number.name}: stopped; no micro-batch was running\n")
    assert _is_released(place.output)
    wait_for(lambda: not javas(f"{logs}/spark"))


def test_java_ends_with_its_program_and_a_program_says_that_its_java_ended(
    place: Place, pictures: list[Path], wait_for: Wait
) -> None:
    """A driver that is killed while Java starts leaves none; a Java that is killed is named, and the lease is free."""
    place.put(*pictures[:1])
    logs = place.root / "logs"
    arguments = place.arguments("run", "--interval", "100ms", "--log-folder", str(logs))
    killed = start("streaming", arguments)
    wait_for(lambda: bool(javas(f"{logs}/spark")))
    killed.kill()
    end(killed)
    wait_for(lambda: not javas(f"{logs}/spark"), 60)

    stream = start("streaming", arguments)
    wait_for(lambda: place.committed() >= 1)
    [java] = javas(f"{logs}/spark")
    workers = java.children(recursive=True)
    java.kill()
    last = end(stream).splitlines()[-1]
    assert stream.returncode == 7
    assert last.startswith(
        "error: Java was ended by SIGKILL, as the kernel does when memory runs out; nothing is lost: start again ("
    )
    assert _is_released(place.output)
    wait_for(lambda: not any(worker.is_running() for worker in workers))


@pytest.mark.parametrize(
    ("end", "said", "told"),
    [
        ("kill -9 $$", "", "Java was ended by SIGKILL, as the kernel does when memory runs out"),
        ("exit 1", "", "Java ended with exit code 1"),
        (
            "exit 3",
            "Terminating due to java.lang.OutOfMemoryError: Java heap space\n",
            "Java ended with exit code 3; its log says: java.lang.OutOfMemoryError: Java heap space",
        ),
        (
            "kill -6 $$",
            "#\n# An error report file is saved as:\n# /tmp/hs_err_pid7.log\n",
            "Java was ended by SIGABRT; its log says: /tmp/hs_err_pid7.log",
        ),
    ],
)
def test_a_program_says_what_java_died_of(
    end: str, said: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the log knows; what another Java left in the log is not of this one."""
    log, stderr = tmp_path / "spark.log", tmp_path / "stderr.log"
    former = "java.lang.OutOfMemoryError: of last week\n"
    log.write_text(former)
    stderr.write_text(said)
    monkeypatch.setattr(java_process, "_logs", {stderr: 0, log: len(former)})
    with subprocess.Popen(["sh", "-c", end], stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(java_process, "_process", process)
        assert java_process.how_it_ended(10) == told
        explained = explain_failure(ConnectionRefusedError("refused"))
    assert isinstance(explained, PlatformError)
    assert told in str(explained)


def test_another_verb_is_interrupted(tmp_path: Path, wait_for: Wait) -> None:
    """In one line, with exit code 130, its lease given back and no Java left."""
    output, to, logs = open_folder(str(tmp_path / "out")), tmp_path / "exports", tmp_path / "logs"
    begin(output)
    fill(output)
    places = ["--output", output.root, "--to", str(to), "--log-folder", str(logs)]
    process = start("tests.support.by_spark", ["export", *places, "--log-format", "text", "--master", "local[2,4]"])
    wait_for(lambda: bool(javas(f"{logs}/spark")))
    process.terminate()
    assert re.fullmatch(r"\S+ starting Spark\nerror: interrupted by SIGTERM\n", end(process))
    assert process.returncode == 130
    assert _is_released(to)
    wait_for(lambda: not javas(f"{logs}/spark"))


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path))


@pytest.fixture(autouse=True)
def _java_lives() -> Iterator[None]:
    """A signal that a test raises in its own process would end the Java that other tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interrupts, "_give_up", [])
        yield


def test_a_lease_that_is_being_taken_or_given_back_is_given_back(
    output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in between waits for the write."""
    write = Lease._write

    def interrupted(lease: Lease, *arguments: Any, **more: Any) -> None:
        if not interrupts._handler.received:
            signal.raise_signal(signal.SIGTERM)
        write(lease, *arguments, **more)

    def take_and_give_back(*, then: Callable[[], None]) -> None:
        with interrupts.handled(), Lease(output, LONG):
            then()

    monkeypatch.setattr(Lease, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        take_and_give_back(then=lambda: pytest.fail("the work has begun"))
    assert _is_released(Path(output.root))
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        take_and_give_back(then=lambda: monkeypatch.setattr(Lease, "_write", interrupted))
    assert _is_released(Path(output.root))


@pytest.mark.parametrize("error", [LeaseHeldError, TransientError])
def test_a_signal_counts_although_the_lease_cannot_be_taken(
    output: Folder, monkeypatch: pytest.MonkeyPatch, error: type[AppError]
) -> None:
    """Whoever waits for the store, or for the holder, would wait on."""

    def refused(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise error

    monkeypatch.setattr(lease, "read_holder", refused)
    with interrupts.handled(), pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        Lease(output, LONG).__enter__()


def test_what_drains_is_not_interrupted(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; and handlers are as they were afterwards."""
    former = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    stop, given_up = threading.Event(), threading.Event()
    monkeypatch.setattr(interrupts, "_give_up", [given_up.set])
    caplog.set_level(logging.INFO)
    with interrupts.handled(), interrupts.draining(stop.set):
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
    assert "SIGTERM: finishing the running micro-batch" in caplog.text
    assert not given_up.is_set()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == former


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (
            TransientError("the store is gone"),
            0,
            "SIGTERM: stopped while the store fails; nothing is lost: the store is gone",
        ),
        (OutputError("the output is damaged"), 5, "error: the output is damaged"),
    ],
)
def test_what_drains_does_not_wait_for_a_store_that_fails(
    error: AppError, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verb is not tried again once it was told to stop; another failure is told as always."""
    tried: list[Settings] = []

    def run(settings: Settings, _options: object) -> str:
        tried.append(settings)
        if len(tried) == 1:
            with interrupts.draining(lambda: None):
                signal.raise_signal(signal.SIGTERM)
            raise error
        return "it was tried again"

    monkeypatch.setattr("conf.cli.pauses", lambda: iter([0.0]))
    verb = Verb("bake", "Bake.", "Bake.", (), (), run, waits=True, drains=True)
    parser = make_parser("bakery", "A bakery.", [verb])
    assert run_program("bakery", parser, ["bake", "--log-format", "text"], lambda _: None) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].endswith(told)
    assert len(tried) == 1


def test_nohup_is_respected() -> None:
    """A program whose terminal is closed goes on if it was told to ignore that."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.handled():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)
