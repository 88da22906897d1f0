"""The main job where everything is on S3: on moto, and on versitygw, which is an independent real server."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_fit.__main__ import main as fit
from conf.aws.connection import S3Connection, forget_clients
from conf.errors import AlreadyExistsError, ConflictError, ModelError, NotFoundError, StorageError
from conf.uris import resolve
from streaming.__main__ import main
from streaming.registry.bundle import MANIFEST
from streaming.registry.registry import Registry
from streaming.storage.locations import list_pictures, open_folder, read_picture
from tests.support.buckets import Bucket, new_bucket
from tests.support.servers import CREDENTIALS
from tests.support.streams import TWO_TASKS, Place, start

pytestmark = pytest.mark.usefixtures("programs")

CONNECTION = S3Connection()
Wait = Callable[[Callable[[], bool]], None]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def _model(bucket: Bucket, fitted: Path) -> None:
    bucket.put_tree(fitted, "models")


def test_a_folder_keeps_its_promises(bucket: Bucket) -> None:
    """Create never overwrites, replace only what is unchanged; missing is missing."""
    folder = open_folder(bucket.uri("folder/"), CONNECTION)
    tag = folder.create("a/b", b"1")
    with pytest.raises(AlreadyExistsError):
        folder.create("a/b", b"2")
    with pytest.raises(ConflictError):
        folder.replace("a/b", b"3", '"another"')
    folder.replace("a/b", b"4", tag)
    with pytest.raises(ConflictError):
        folder.replace("a/b", b"5", tag)
    assert folder.read("a/b") == b"4"
    folder.create("a/long", b"0123456789")
    assert [folder.read_end("a/long", count) for count in (3, 30)] == [b"789", b"0123456789"]
    folder.delete("a/long")
    assert folder.exists("a/b")
    assert not folder.exists("a/c")
    with pytest.raises(NotFoundError):
        folder.read("a/c")
    folder.create("a/c/d", b"")
    assert list(folder.names("a")) == ["a/b", "a/c/d"]
    folder.copy("a/b", "a/c/100%25 é")
    assert folder.read("a/c/100%25 é") == b"4"
    with pytest.raises(NotFoundError):
        folder.copy("a/x", "a/y")
    folder.delete("nothing")
    folder.create("a/d", b"")
    folder.delete_all(["a/d", "nothing"])
    assert not folder.exists("a/d")
    folder.delete_tree("a/c")
    assert list(folder.names("")) == ["a/b"]


def test_keys_as_people_have_them(bucket: Bucket) -> None:
    """A path is what one can hand back to any S3 client; folder markers are not pictures, empty objects are."""
    names = ["a b", "é", "a+b%20#?=&:c", "_x", ".y", "UPPER.JPG", "empty"]
    for name in names:
        bucket.s3.put_object(Bucket=bucket.name, Key=f"in/sub/{name}", Body=b"" if name == "empty" else b"123")
    bucket.s3.put_object(Bucket=bucket.name, Key="in/marker/", Body=b"")
    bucket.s3.put_object(Bucket=bucket.name, Key="inside", Body=b"not in the folder")
    listed = list(list_pictures(resolve(bucket.uri("in")), print, CONNECTION))
    assert [picture.path for picture in listed] == [f"s3://{bucket.name}/in/sub/{name}" for name in sorted(names)]
    for picture in listed:
        assert read_picture(picture.path, 100, CONNECTION) == (b"" if picture.path.endswith("empty") else b"123")
        assert picture.etag
    with pytest.raises(NotFoundError):
        read_picture(f"s3://{bucket.name}/in/gone", 100, CONNECTION)


def test_a_missing_bucket_is_one_line(bucket: Bucket) -> None:
    """It names the bucket and where to look."""
    with pytest.raises(StorageError, match=r"no-such-bucket-here: there is no such bucket; check the name"):
        list(list_pictures("s3://no-such-bucket-here", print, CONNECTION))


@pytest.mark.parametrize(
    ("place", "environment", "said"),
    [
        ("s3://my bucket", {}, "Invalid bucket name"),
        ("s3://bucket", {"AWS_PROFILE": "nope"}, "nope.*AWS_PROFILE"),
        ("s3://bucket", {"AWS_ENDPOINT_URL": "nothing:9000"}, "nothing:9000.*AWS_ENDPOINT_URL"),
        ("s3://bucket", {"AWS_REGION": "eu west"}, "eu west.*AWS_REGION"),
    ],
)
def test_what_boto3_refuses_to_ask_is_one_line(
    place: str, environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """It names the wrong value, and where it comes from."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    try:
        assert main(["status", "--output", place]) in {2, 6}
    finally:
        forget_clients()
    [line] = capsys.readouterr().err.strip().splitlines()
    assert re.search(said, line), line


@pytest.mark.usefixtures("_model")
def test_of_two_promotions_at_once_one_is_told(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """CURRENT changes only if it is still what was read."""
    models = open_folder(bucket.uri("models"), CONNECTION)
    registry = Registry(models)
    version = registry.current()
    other = f"{version[:-1]}{'0' if version[-1] != '0' else '1'}"
    models.create(f"{other}/{MANIFEST}", b"{}")
    monkeypatch.setattr(registry, "open", lambda version: None)
    state = registry._state()
    registry.promote(other)
    monkeypatch.setattr(registry, "_state", lambda: state)
    with pytest.raises(ModelError, match="changed by somebody else meanwhile"):
        registry.promote(version[:-1] + "2")


@pytest.mark.usefixtures("backbone")
def test_fit_and_replay_on_s3(bucket: Bucket, pictures: list[Path], broken: list[Path], capsys: Capture) -> None:
    """Everything in a bucket; a second replay adds nothing; saved features need no rename."""
    paths = bucket.put(pictures[:30]) + bucket.put(broken, "broken")
    places = ["--input", bucket.uri("input"), "--models", bucket.uri("models")]
    saved = ["--save-features", bucket.uri("saved"), "--weights", "random:0", "--k", "4"]
    assert fit(["fit", *places, *saved, *TWO_TASKS]) == 0
    assert bucket.replay("--max-pictures", "20", *TWO_TASKS) == 0
    assert bucket.counted() == dict.fromkeys(paths, 1)
    assert len(bucket.rows()) == 30
    capsys.readouterr()
    assert bucket.replay() == 0
    assert "nothing new" in capsys.readouterr().out
    assert not [key for key in bucket.keys("") if "_temporary" in key or "__magic" in key]
    marker = bucket.s3.get_object(Bucket=bucket.name, Key="saved/_SUCCESS")["Body"].read()
    assert b'"committer":"magic"' in marker.replace(b" ", b"")


def test_keys_that_no_file_can_have(moto_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slashes in a row, and 1,024 bytes; on moto only, because versitygw keeps its objects as files."""
    with new_bucket(moto_address, monkeypatch) as bucket:
        _check_keys(bucket)


def _check_keys(bucket: Bucket) -> None:
    keys = ["in//double", "in/" + "é" * 510 + "x"]
    assert max(len(key.encode()) for key in keys) == 1024
    for key in keys:
        bucket.s3.put_object(Bucket=bucket.name, Key=key, Body=b"123")
    listed = list(list_pictures(resolve(bucket.uri("in")), print, CONNECTION))
    assert [picture.path for picture in listed] == [f"s3://{bucket.name}/{key}" for key in keys]
    assert [read_picture(picture.path, 100, CONNECTION) for picture in listed] == [b"123"] * 2


@pytest.mark.parametrize("store", ["versitygw"], indirect=True)
@pytest.mark.usefixtures("_model")
def test_a_killed_stream_on_s3_loses_and_repeats_nothing(
    bucket: Bucket, pictures: list[Path], place: Place, wait_for: Wait
) -> None:
    """Kill -9 in mid-stream, whose checkpoint is gone, a swapped model, and a stop from elsewhere."""
    paths = bucket.put(pictures[:10])
    first = start("streaming", bucket.arguments("run", "--interval", "200ms", "--max-pictures", "5"))
    wait_for(lambda: bucket.committed() >= 1)
    first.kill()
    first.communicate()
    assert not bucket.keys("output/_checkpoint")
    paths += bucket.put(pictures[10:20])
    second = start("streaming", bucket.arguments("run", "--interval", "200ms", "--max-pictures", "5"))
    wait_for(lambda: bucket.has(paths))
    version = place.promote_another(1)
    bucket.put_tree(place.models / version, f"models/{version}")
    bucket.s3.upload_file(str(place.models / "CURRENT"), bucket.name, "models/CURRENT")
    paths += bucket.put(pictures[20:25])
    wait_for(lambda: bucket.has(paths))
    assert Counter(bucket.rows()["model_version"].to_pylist())[version] == 5
    assert main(["stop", "--output", bucket.uri("output")]) == 0
    said, _ = second.communicate(timeout=180)
    assert second.returncode == 0, said
    assert bucket.counted() == dict.fromkeys(paths, 1)


def test_credentials_are_in_no_configuration(bucket: Bucket) -> None:
    """What Spark is told holds no key."""
    said = repr(CONNECTION.spark_properties())
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in said
