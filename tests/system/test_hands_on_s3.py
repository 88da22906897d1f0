"""What people do to an output on S3: the faults of test_hands.py, where a request and not a file is what counts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streaming.__main__ import main
from tests.support.buckets import Bucket, new_bucket
from tests.support.streams import start

pytestmark = pytest.mark.usefixtures("programs")

Wait = Callable[..., None]


@pytest.fixture
def bucket(versitygw_address: str, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket with a model, on a real store."""
    with new_bucket(versitygw_address, monkeypatch) as made:
        made.put_tree(fitted, "models")
        yield made


def test_a_holder_that_was_paused_past_its_lease_repeats_nothing_and_stops(
    bucket: Bucket, pictures: list[Path], wait_for: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is refused until the lease has run out, and told who holds it; then it takes over."""
    paths = bucket.put(pictures[:30])
    more = ("--max-pictures", "10", "--lease", "10s")
    paused = start("streaming", bucket.arguments("run", "--interval", "200ms", *more))
    wait_for(lambda: len(bucket.keys("output/_manifests/2")) == 3)
    os.kill(paused.pid, signal.SIGSTOP)
    try:
        assert bucket.replay(*more) == 5
        assert f"another stream writes to this output: process {paused.pid} on" in capsys.readouterr().err
        wait_for(lambda: bucket.replay(*more) == 0, every=0.5)
    finally:
        os.kill(paused.pid, signal.SIGCONT)
    said, _ = paused.communicate(timeout=180)
    assert paused.returncode == 5, said
    assert "lost the right to write here" in said
    assert bucket.counted() == dict.fromkeys(paths, 1)


def test_what_was_deleted_by_hand_is_made_again_or_named(
    bucket: Bucket, pictures: list[Path], broken: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Features, then a manifest whose rows are there; status tells how it stands."""
    paths = bucket.put(pictures[:12]) + bucket.put(broken, "broken")
    assert bucket.replay("--max-pictures", "8") == 0
    *_, latest = [key for key in bucket.keys("output/features/") if "/empty.parquet" not in key]
    bucket.s3.delete_object(Bucket=bucket.name, Key=latest)
    paths += bucket.put(pictures[12:15])
    assert bucket.replay() == 0
    assert latest in bucket.keys("output/features/")
    assert bucket.counted() == dict.fromkeys(paths, 1)
    capsys.readouterr()
    assert main(["status", "--output", bucket.uri("output"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["unfinished_pictures"], sum(status["quarantined"].values())) == (0, len(broken))

    manifest = bucket.keys("output/_manifests/2")[-1]
    bucket.s3.delete_object(Bucket=bucket.name, Key=manifest)
    assert bucket.replay() == 5
    said = capsys.readouterr().err
    assert f"s3://{bucket.name}/output/_manifests lacks " in said
    assert "whose rows are in the tables" in said
    name = Path(manifest).stem
    for key in bucket.keys("output/features/") + bucket.keys("output/quarantine/"):
        if name in key:
            bucket.s3.delete_object(Bucket=bucket.name, Key=key)
    assert bucket.replay() == 0
    assert bucket.counted() == dict.fromkeys(paths, 1)
