"""Forgetting: pictures leave every place that the project put them, for good, and nobody else does."""

from __future__ import annotations

import json
import shutil
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streaming.__main__ import main as stream
from streaming.output.embeddings import STAGED_FOLDER
from streaming.output.manifests import manifest_ids, read_manifest
from streaming.registry.registry import Registry
from streaming.storage.locations import open_folder
from tests.support.buckets import Bucket
from tests.support.forgetting import (
    LEASES,
    LOCAL,
    REMOVED,
    asked_of,
    check_gone,
    forget_words,
    mentions,
    one_of_each,
    some,
    to_refit,
    tree_of,
    without,
)
from tests.support.streams import Place, run, start

Wait = Callable[..., None]


def test_a_picture_is_gone_everywhere_and_for_good(
    streamed: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others keep their rows, nothing takes it in again, and asking twice changes nothing.

    They are told in a file of Windows, among others that nothing has; these are named, and only another spelling known.
    """
    before, gone, tree = streamed.rows(), one_of_each(streamed), tree_of(streamed.root)
    for path in gone:
        assert mentions(streamed.output, path)
    stays = some(streamed, "pear é", 2)[1]
    other = unicodedata.normalize("NFD", stays)
    wanted = tmp_path / "wanted.txt"
    wanted.write_bytes("\r\n".join([*gone, other, "/in/nobody's.jpg", ""]).encode("utf-16"))
    asked = forget_words(streamed, "--from-file", str(wanted))
    [expected] = asked_of([*asked, "--dry-run"], capsys)
    assert tree_of(streamed.root) == tree
    [receipt] = asked_of(asked, capsys)
    for answer in (expected, receipt):
        named = [(one["where"], one["asked"], one["nearest"]) for one in answer["unmatched"]]
        assert named == [("line 6", other, stays), ("line 7", "/in/nobody's.jpg", None)]
    written = (streamed.output / f"_forgotten/receipts/{receipt['id']}.json").read_text(encoding="utf-8")
    assert [one["where"] for one in json.loads(written)["unmatched"]] == ["line 6", "line 7"]
    assert "/in/" not in written
    check_gone(streamed, gone, before)
    removed = REMOVED | {"embeddings": REMOVED["features"]}
    assert (expected["removed"], expected["refit"]) == (removed, to_refit(streamed))
    assert (receipt["removed"], receipt["refit"]) == (removed, to_refit(streamed))
    tree = tree_of(streamed.root)
    [again] = asked_of(asked, capsys)
    assert {**again, "finished_at": None} == {**receipt, "finished_at": None}
    assert {name for name, digest in tree_of(streamed.root).items() if digest != tree.get(name)} - LEASES == {
        f"out/_forgotten/receipts/{receipt['id']}.json"
    }
    assert stream(streamed.arguments("replay")) == 0
    there = [str(file) for file in streamed.source.rglob("*") if file.is_file()]
    assert streamed.counted() == dict.fromkeys([path for path in there if path not in gone], 1)
    reconciled = ["reconcile", "--input", str(streamed.source), "--output", str(streamed.output), *LOCAL, "--json"]
    capsys.readouterr()
    assert stream(reconciled) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["missed"], found["gone"]) == (0, 0)


def test_a_prefix_is_gone_with_what_is_to_come(streamed: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Also from a model, which knows its pictures by hashes of whole paths only; people are told what to do."""
    gone = [str(file) for file in (streamed.source / "fig").iterdir()]
    others = without(streamed.rows(), gone)
    (streamed.source / "figs").mkdir()
    assert stream(forget_words(streamed, "--prefix", f"{streamed.source}/fig/")) == 0
    said = capsys.readouterr().out
    assert f"{len(gone):,} from features" in said
    assert (
        f"refit        {Registry(open_folder(str(streamed.models))).current()} in {streamed.models}: 8 of its" in said
    )
    assert streamed.rows() == others
    for path in gone:
        assert mentions(streamed.root, path, but=streamed.source) == []
    shutil.copy(gone[0], streamed.source / "fig" / "new.jpg")
    shutil.copy(gone[0], streamed.source / "figs" / "new.jpg")
    assert stream(streamed.arguments("replay")) == 0
    assert str(streamed.source / "figs" / "new.jpg") in streamed.counted()
    assert not [path for path in streamed.counted() if path.startswith(f"{streamed.source}/fig/")]


@pytest.mark.usefixtures("programs")
def test_what_spark_has_planned_is_forgotten_too(
    place: Place, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a stream that was killed between its offsets and its commit: all pictures of one manifest, one of another."""
    paths = place.put(*pictures[:8])
    replay = place.arguments("replay", "--max-pictures", "4")
    killed = run("tests.support.killing", ["before", "create", "features/date=*/2*", "1", "streaming", *replay])
    assert killed.returncode == -9, killed.stdout
    output = open_folder(str(place.output))
    [staged] = (place.output / STAGED_FOLDER).iterdir()  # of the manifest that Spark happened to take first
    ids = sorted(manifest_ids(output), key=staged.name.startswith)
    other, planned = [[picture.path for picture in read_manifest(output, one)] for one in ids]
    gone = [*planned, other[0]]
    [receipt] = asked_of(forget_words(place, *gone), capsys)
    assert receipt["removed"] == {"manifests": 5, "embeddings": 4}  # those that the killed stream had staged
    assert stream(replay) == 0
    assert place.embedded() == place.featurized()
    assert place.counted() == dict.fromkeys([path for path in paths if path not in gone], 1)
    assert place.committed() == 2


@pytest.mark.usefixtures("programs")
def test_the_running_stream_takes_notice(
    place: Place, pictures: list[Path], wait_for: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    """It never takes the pictures in again, and who reads the table meanwhile misses nobody else."""
    paths = place.put(*pictures[:10])
    running = start("streaming", place.arguments("run", "--interval", "100ms", "--max-pictures", "5"))
    try:
        wait_for(lambda: place.has(paths))
        to_come = str(place.source / "apple" / pictures[20].name)
        gone = [*paths[:3], to_come]
        done, missed = threading.Event(), []

        def read() -> None:
            while not done.is_set():
                missed.append(set(paths[3:]) - place.counted().keys())

        reader = threading.Thread(target=read)
        reader.start()
        [receipt] = asked_of(forget_words(place, *gone), capsys)
        done.set()
        reader.join()
        assert receipt["removed"]["features"] == 3
        assert len(missed) > 3
        assert not any(missed)
        shutil.copy(pictures[21], paths[0])  # written again
        place.put(pictures[20])
        later = place.put(*pictures[22:25])
        wait_for(lambda: place.has(later))
    finally:
        running.terminate()
        said, _ = running.communicate(timeout=180)
    assert running.returncode == 0, said
    assert "denylist reloaded: " in said
    assert place.counted() == dict.fromkeys([*paths[3:], *later], 1)
    for path in gone:
        assert mentions(place.output, path) == []


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("store", ["versitygw"], indirect=True)
def test_everything_in_a_bucket(bucket: Bucket, fitted: Path, pictures: list[Path], broken: list[Path]) -> None:
    """The same verb, the same receipt, and nothing comes back."""
    bucket.put_tree(fitted, "models")
    paths = bucket.put([*pictures[:8], *broken[:1]])
    replay = bucket.arguments("replay", "--max-pictures", "5", "--epoch-manifests", "2")
    assert run("streaming", replay).returncode == 0
    gone = [paths[0], paths[6], paths[8]]
    prefix = bucket.uri("input/apple/" + pictures[3].name)
    asked = ["forget", "--output", bucket.uri("output"), *LOCAL, *gone, "--prefix", prefix, "--json"]
    answers = []
    for program, *more in (["tests.support.by_spark", "--dry-run"], ["streaming"]):
        said = run(program, [*asked, *more])
        assert said.returncode == 0, said.stdout
        answers += json.loads(said.stdout.splitlines()[-1])
    [expected, receipt] = answers
    assert expected["removed"] == receipt["removed"]
    gone.append(paths[3])
    assert receipt["removed"]["features"] == 3
    assert receipt["removed"]["quarantine"] == 1
    assert run("streaming", replay).returncode == 0
    assert bucket.counted() == dict.fromkeys([path for path in paths if path not in gone], 1)
    for key in bucket.keys("output/"):
        if "/features/" not in key and "/quarantine/" not in key:
            body = bucket.s3.get_object(Bucket=bucket.name, Key=key)["Body"].read()
            if key.endswith(".parquet"):
                rows = pq.read_table(pa.BufferReader(body))
                assert not {*gone} & {*rows["path"].to_pylist()}
            else:
                assert not any(path.encode() in body for path in gone), key
