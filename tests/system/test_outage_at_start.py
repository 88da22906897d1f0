"""A store that is gone when a program starts is retried, unless the program is told not to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from batch_fit import __main__ as batch_fit
from conf.errors import TransientError
from conf.settings import Settings
from streaming import __main__ as streaming
from streaming.forget.receipts import Receipt
from streaming.forget.wanted import Wanted
from streaming.output.manifests import prepare_log
from streaming.storage.locations import open_folder
from tests.support.buckets import Bucket, new_bucket
from tests.support.servers import FaultyStore
from tests.support.streams import start

pytestmark = pytest.mark.usefixtures("programs")

Wait = Callable[..., None]


@pytest.fixture
def faulty(moto_address: str) -> Iterator[FaultyStore]:
    """A store that is gone."""
    with FaultyStore(moto_address) as proxy:
        proxy.out = True
        yield proxy


@pytest.fixture
def bucket(faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch, moto_address: str) -> Iterator[Bucket]:
    """A bucket in it, which the test itself reaches."""
    monkeypatch.setenv("PICTURE_FEATURES_S3__ATTEMPTS", "1")
    with new_bucket(moto_address, monkeypatch) as made:
        yield made


def test_each_verb_that_works_on_a_store_waits_for_it() -> None:
    """But status, which tells how it is now, and those where a second attempt is not the same as the first."""
    waiting = {verb.name for verb in (*streaming.VERBS, *batch_fit.VERBS) if verb.waits}
    others = {"reconcile", "quarantine", "export", "forget", "stop", "similar", "duplicates", "fit", "models"}
    assert waiting == {"run", "replay", *others}


def test_a_verb_goes_on_when_the_store_is_back(
    bucket: Bucket,
    faulty: FaultyStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wait_for: Wait,
) -> None:
    """It says that it waits, and what for."""
    output = bucket.uri("output")
    prepare_log(open_folder(output))
    arguments = ["stop", "--output", output, "--log-format", "text"]
    monkeypatch.setenv("PICTURE_FEATURES_S3__ENDPOINT", faulty.address)
    assert streaming.main([*arguments, "--no-wait"]) == 6
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "the store does not answer" in line

    def come_back() -> Iterator[float]:
        faulty.out = False
        yield 1

    monkeypatch.setattr("conf.cli.pauses", come_back)
    assert streaming.main(arguments) == 0
    said = capsys.readouterr()
    assert "no stream runs on" in said.out
    [line] = said.err.splitlines()
    assert "the store does not answer" in line
    assert "nothing is lost, trying again in 1s" in line


def test_a_stream_that_waits_for_its_store_obeys_a_signal(bucket: Bucket, faulty: FaultyStore, wait_for: Wait) -> None:
    """With exit code 0, as always."""
    stream = start("streaming", bucket.arguments("run"), AWS_ENDPOINT_URL=faulty.address)
    assert stream.stdout
    assert "trying again" in stream.stdout.readline()
    stream.terminate()
    said, _ = stream.communicate(timeout=120)
    assert stream.returncode == 0
    assert said.endswith("SIGTERM: stopped; no micro-batch was running\n")


def test_what_standard_input_asks_to_forget_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It can be read once only."""
    asked: list[Wanted] = []

    def forget(_settings: Settings, wanted: Wanted, _progress: object, *, dry_run: bool) -> list[Receipt]:
        asked.append(wanted)
        if len(asked) == 1:
            raise TransientError("the store does not answer")
        return []

    monkeypatch.setattr("streaming.forget.run.forget", forget)
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"/a.jpg\n")))
    assert streaming.main(["forget", "--from-file", "-", "--output", str(tmp_path)]) == 0
    first, second = asked
    assert first
    assert second == first
