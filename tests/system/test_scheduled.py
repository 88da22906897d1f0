"""Runs by a schedule, `replay --discovery events --skip-if-running`: each picture once, whatever meets or is killed."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conf.errors import AlreadyExistsError, LeaseHeldError
from conf.loading import load_settings
from conf.settings import Settings
from streaming.__main__ import main
from streaming.discovery.sqs import Queue
from streaming.engine import job
from streaming.lease.holder import LEASE, Holder
from streaming.lease.lease import Lease
from streaming.lease.tenure import Tenure
from streaming.output.manifest_log import ManifestLog
from streaming.output.tables import Tables
from streaming.registry.registry import CURRENT, Current
from streaming.storage.local_folder import LocalFolder
from streaming.storage.locations import open_folder
from tests.support.queues import NotifyingBucket, new_notifying_bucket, record
from tests.support.streams import Place, end, run, start
from tests.support.without_spark import replace_spark, replay_here

RUNS = 20
LONG = timedelta(minutes=1)


@pytest.fixture
def bucket(moto_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifyingBucket]:
    """With a queue whose messages come again after two seconds."""
    with new_notifying_bucket(moto_address, monkeypatch) as made:
        yield made


@pytest.fixture
def here(tmp_path: Path) -> Place:
    """A place for replays without Spark: its registry names a model that nobody opens."""
    place = Place(tmp_path / "here")
    place.source.mkdir(parents=True)
    place.models.mkdir()
    current = Current(version="20260131T235959Z-1a2b3c4d", promoted_at=datetime.now(UTC))
    (place.models / CURRENT).write_text(current.model_dump_json())
    return place


def _settings(place: Place, bucket: NotifyingBucket) -> Settings:
    return load_settings(
        {
            "input": bucket.source,
            "models": str(place.models),
            "output": str(place.output),
            "stream.discovery": "events",
            "stream.queue": bucket.url,
            "stream.interval": "1s",
            "stream.max_pictures": 3,
        }
    )


def _picture(place: Place) -> Path:
    """A file that is not looked at."""
    file = place.root / "picture.jpg"
    file.write_bytes(b"123")
    return file


class _KilledError(BaseException):
    """The process is gone: what was to come does not, and the lease is not given back."""


@contextmanager
def _killed_at(kind: type, method: str) -> Iterator[None]:
    """Whoever comes to this method of a class is killed there."""

    def die(*_arguments: Any, **_more: Any) -> None:
        raise _KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, method, die)
        patch.setattr(Lease, "_release", lambda *_: None)
        with pytest.raises(_KilledError):
            yield


_POINTS: tuple[tuple[type, str], ...] = ((ManifestLog, "_append"), (Queue, "delete"), (Tables, "commit"))
"""Before a manifest, between manifests and the deletion of their messages, before a commit."""


def test_twenty_runs_have_each_picture_once(
    here: Place, bucket: NotifyingBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures arrive between the runs and during them, messages come twice, runs meet, and runs are killed."""
    settings, numbers = _settings(here, bucket), itertools.count()
    paths: list[str] = []
    said: list[str] = []

    def arrive(count: int) -> None:
        paths.extend(bucket.put(*(f"apple/{next(numbers)}.jpg" for _ in range(count))))

    replace_spark(monkeypatch, lambda: arrive(1))
    for number in range(RUNS):
        arrive(number % 4)
        if number % 3 == 0 and paths:
            bucket.send({"Records": [record(bucket.name, paths[-1].removeprefix(f"s3://{bucket.name}/"))]})
        if number in (4, 9, 14):
            arrive(1)
            with _killed_at(*_POINTS[number // 5]):
                replay_here(settings)
        elif number % 5 == 2:
            with ThreadPoolExecutor(2) as pool:
                said += pool.map(replay_here, [settings] * 2)
        else:
            said.append(replay_here(settings))
    monkeypatch.undo()
    replace_spark(monkeypatch)
    while not (latest := replay_here(settings)).startswith("nothing new: "):
        said.append(latest)
    assert len(paths) > 2 * RUNS
    assert here.counted() == Counter(dict.fromkeys(paths, 1))
    assert bucket.waiting() == 0
    kinds = Counter(one.split()[0] for one in said)
    assert kinds["pictures"] >= RUNS // 2
    assert kinds.keys() <= {"pictures", "another", "nothing"}


def test_a_run_that_finds_another_says_so_and_is_no_failure(
    here: Place, bucket: NotifyingBucket, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only with the flag; one line names the holder, and nothing is changed."""
    here.put(_picture(here))
    arguments = here.arguments("replay")
    with Lease(open_folder(str(here.output)), LONG):
        assert main(arguments) == 5
        assert "another stream writes to this output" in capsys.readouterr().err
        assert main([*arguments, "--skip-if-running"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"another stream, process {os.getpid()} on ")
    assert told.out.endswith(f", is running on {here.output}; nothing to do\n")
    assert len(told.out.splitlines()) == 1
    assert not told.err
    assert not here.logged()


def test_a_holder_on_another_machine_counts_until_its_lease_runs_out(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody here can see whether its process lives; a run of the schedule after that goes on."""
    replace_spark(monkeypatch)
    [path] = here.put(_picture(here))
    settings = load_settings({"input": str(here.source), "models": str(here.models), "output": str(here.output)})
    settings = settings.model_copy(update={"stream": settings.stream.model_copy(update={"settle": timedelta(0)})})
    now = datetime.now(UTC)
    elsewhere = Holder(
        id="other",
        host="elsewhere",
        machine="another",
        pid=7,
        process_started="1",
        since=now,
        expires_at=now + 2 * LONG,
    )
    lease = here.output / LEASE
    here.output.mkdir()
    lease.write_text(elsewhere.model_dump_json())
    assert replay_here(settings).startswith("another stream, process 7 on elsewhere (since ")
    assert json.loads(lease.read_text())["id"] == "other"
    with pytest.raises(LeaseHeldError):
        replay_here(settings, skip_if_running=False)
    lease.write_text(elsewhere.model_copy(update={"expires_at": now}).model_dump_json())
    assert replay_here(settings).startswith("pictures     1 in ")
    assert here.counted() == {path: 1}


def test_of_two_that_take_the_lease_at_once_one_has_nothing_to_do(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one whose write comes second names the other."""
    settings = load_settings({"input": str(here.source), "models": str(here.models), "output": str(here.output)})
    create, other = LocalFolder.create, Lease(open_folder(str(here.output)), LONG)

    def create_second(folder: LocalFolder, name: str, data: bytes) -> str:
        if name != LEASE or other.holder.renewed_at:
            return create(folder, name, data)
        other.__enter__()
        raise AlreadyExistsError(name)

    def enter(held: Lease) -> None:
        monkeypatch.setattr(LocalFolder, "create", create)
        type(held).__enter__(held)

    monkeypatch.setattr(other, "__enter__", lambda: enter(other), raising=False)
    monkeypatch.setattr(LocalFolder, "create", create_second)
    said = replay_here(settings)
    other.__exit__(None, None, None)
    assert said == f"another stream, {other.holder}, is running on {here.output}; nothing to do"


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sessions that are begun for YARN; none is made."""
    names: list[str] = []

    @contextmanager
    def session(name: str, *_: object) -> Iterator[None]:
        names.append(name)
        yield

    monkeypatch.setattr(job, "spark_session", session)
    return names


def test_on_yarn_a_run_without_work_has_a_session_all_the_same(
    here: Place, monkeypatch: pytest.MonkeyPatch, sessions: list[str]
) -> None:
    """An application that ends without one has failed, to YARN; elsewhere Spark is not started for nothing."""
    settings = load_settings({"input": str(here.source), "models": str(here.models), "output": str(here.output)})
    with Lease(open_folder(str(here.output)), LONG):
        assert replay_here(settings).startswith("another stream")
        assert not sessions
        monkeypatch.setenv("CONTAINER_ID", "container_1700000000000_0001_01_000001")
        assert replay_here(settings).startswith("another stream")
    assert sessions == ["picture-features"]


def test_on_yarn_an_export_without_work_has_a_session_all_the_same(
    here: Place, monkeypatch: pytest.MonkeyPatch, sessions: list[str]
) -> None:
    replace_spark(monkeypatch)
    here.put(_picture(here))
    places = {"input": str(here.source), "models": str(here.models), "output": str(here.output)}
    replay_here(load_settings({**places, "stream.settle": "0s"}))
    export = ["export", "--output", str(here.output), "--to", str(here.root / "to"), "--model", "as-ingested"]
    assert main(export) == 0
    monkeypatch.setenv("CONTAINER_ID", "container_1700000000000_0001_01_000001")
    assert main(export) == 0
    assert sessions == ["picture-features"]


def test_a_run_that_is_stopped_does_not_say_that_nothing_was_there(
    here: Place, bucket: NotifyingBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for messages of another reader, say."""
    settings = _settings(here, bucket)
    replace_spark(monkeypatch)
    bucket.put("a.jpg")
    assert replay_here(settings).startswith("pictures     1 in ")
    bucket.put("b.jpg")
    monkeypatch.setattr(Tenure, "should_stop", lambda _: True)
    assert replay_here(settings) == "stopped as asked; what is still in the queue is for the next run"
    assert bucket.waiting() == 1


@pytest.mark.usefixtures("programs")
def test_whole_programs_that_are_killed_lose_and_repeat_nothing(
    place: Place, bucket: NotifyingBucket, pictures: list[Path]
) -> None:
    """By SIGKILL, between a manifest and the deletion of its messages, and before a commit; then two start at once."""

    def put(files: list[Path]) -> list[str]:
        for file in files:
            bucket.s3.upload_file(str(file), bucket.name, f"in/apple/{file.name}")
        return [f"{bucket.source}/apple/{file.name}" for file in files]

    arguments = place.arguments("replay", "--discovery", "events", "--queue", bucket.url, "--interval", "1s")
    arguments[arguments.index("--input") + 1] = bucket.source
    arguments.append("--skip-if-running")
    assert main(arguments) == 0
    paths = put(pictures[:6])
    for when, method, pattern in (("after", "create", "_manifests/2*"), ("before", "create", "features/date=*/2*")):
        killed = run("tests.support.killing", [when, method, pattern, "1", "streaming", *arguments])
        assert killed.returncode == -9, killed.stdout
        paths += put(pictures[len(paths) : len(paths) + 6])
    programs = [start("streaming", arguments) for _ in range(2)]
    said = [end(program) for program in programs]
    assert [program.returncode for program in programs] == [0, 0], said
    assert main(arguments) == 0
    assert place.counted() == Counter(dict.fromkeys(paths, 1))
    assert bucket.waiting() == 0
