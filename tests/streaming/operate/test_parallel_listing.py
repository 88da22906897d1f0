"""The shares of an input, which tasks of Spark list, hold each picture once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from conf.aws.connection import AWS_DEFAULTS
from streaming.operate.parallel_listing import divide
from streaming.storage import s3
from streaming.storage.locations import list_folder, list_pictures
from tests.support.buckets import Bucket
from tests.support.reconciling import ODD, put


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in [1]"
    put(folder, *ODD)
    return folder


def _through_shares(source: str, wanted: int) -> list[str]:
    shares = divide(source, wanted, AWS_DEFAULTS)
    assert len(set(shares)) == len(shares)
    listed = [
        picture.path for share in shares for picture in list_folder(share.folder, print, AWS_DEFAULTS, deep=share.deep)
    ]
    return sorted(listed)


@pytest.mark.parametrize("wanted", [1, 2, 3, 5, 100])
def test_shares_hold_each_file_once(source: Path, wanted: int) -> None:
    """However finely the input is divided, and although a link leads back into it."""
    (source / "c" / "loop").symlink_to(source)
    assert _through_shares(str(source), wanted) == sorted(str(source / name) for name in ODD)


def test_shares_hold_each_key_once(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on S3, also for keys that no folder could hold, and where a folder has too many keys to look through."""
    keys = [f"in/{name}" for name in ODD] + ["inside.jpg"]
    keys += ["in/marker/", "in//a.jpg", "in///b.jpg", "/top.jpg", "//c.jpg", "in/a b", "in/a b/é"]
    for key in keys:
        with suppress(ClientError):  # a server that keeps objects in files refuses some, and changes others
            bucket.s3.put_object(Bucket=bucket.name, Key=key, Body=b"" if key.endswith("/") else b"1")
    paths = sorted(picture.path for picture in list_pictures(f"s3://{bucket.name}", print, AWS_DEFAULTS))
    assert len(paths) >= len(ODD) + 1
    for pages, one_level in (10, {}), (2, {"PaginationConfig": {"PageSize": 1}}):
        monkeypatch.setattr(s3, "_PAGES_OF_SUBFOLDERS", pages)
        monkeypatch.setattr(s3, "_ONE_LEVEL", {"Delimiter": "/", **one_level})
        for wanted in (1, 2, 3, 5, 100):
            assert _through_shares(f"s3://{bucket.name}", wanted) == paths
            inside = [path for path in paths if path.startswith(f"s3://{bucket.name}/in/")]
            assert _through_shares(f"s3://{bucket.name}/in", wanted) == inside
