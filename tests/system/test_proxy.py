"""A store that is reached through a proxy only: Python and Java take it from the same environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.buckets import new_bucket
from tests.support.processes import javas
from tests.support.servers import FaultyStore
from tests.support.streams import end, start

_USER = "spark.hadoop.fs.s3a.proxy.username=me"

pytestmark = pytest.mark.usefixtures("programs")


def test_a_replay_goes_through_the_proxy_of_the_environment(
    versitygw_address: str,
    fitted: Path,
    pictures: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wait_for: Callable[..., Any],
) -> None:
    """The name of the store does not resolve here. Nothing is left of the checkpoint, nor of Spark's files."""
    with new_bucket(versitygw_address, monkeypatch) as bucket, FaultyStore(versitygw_address) as proxy:
        bucket.put_tree(fitted, "models")
        paths = bucket.put(pictures[:5])
        environment = {
            "AWS_ENDPOINT_URL": "http://store.invalid",
            "HTTP_PROXY": proxy.address.replace("://", "://me:secret@"),  # S3A takes no name without a password
            "PICTURE_FEATURES_S3__PATH_STYLE": "true",
            "TMPDIR": str(tmp_path),
        }
        replay = start("streaming", bucket.arguments("replay"), **environment)
        [words] = wait_for(_lines_of_java)
        assert _USER in words
        assert not any("secret" in word for word in words)  # which everybody here can read
        said = end(replay)
        assert replay.returncode == 0, said
        assert bucket.counted() == dict.fromkeys(paths, 1)
        assert proxy.requests["PUT output/features"] > 0
        assert any("Hadoop" in client for client in proxy.clients)
        assert not [*tmp_path.glob("picture-features-*")]


def _lines_of_java() -> list[list[str]]:
    """The command line of Spark's JVM; none before it has one."""
    lines = [one.info["cmdline"] for one in javas(_USER)]
    return [line for line in lines if "org.apache.spark.launcher.Main" not in line]  # it only prints Java's command
