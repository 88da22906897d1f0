"""A store that is reached through a proxy only: Python and Java take it from the same environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.buckets import new_bucket
from tests.support.servers import FaultyStore
from tests.support.streams import run

pytestmark = pytest.mark.usefixtures("programs")


def test_a_replay_goes_through_the_proxy_of_the_environment(
    versitygw_address: str, fitted: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The name of the store does not resolve here. Nothing is left of the checkpoint."""
    with new_bucket(versitygw_address, monkeypatch) as bucket, FaultyStore(versitygw_address) as proxy:
        bucket.put_tree(fitted, "models")
        paths = bucket.put(pictures[:5])
        environment = {
            "AWS_ENDPOINT_URL": "http://store.invalid",
            "HTTP_PROXY": proxy.address,
            "PICTURE_FEATURES_S3__PATH_STYLE": "true",
            "TMPDIR": str(tmp_path),
        }
        done = run("streaming", bucket.arguments("replay"), **environment)
        assert done.returncode == 0, done.stdout
        assert bucket.counted() == dict.fromkeys(paths, 1)
        assert proxy.requests["PUT output/features"] > 0
        assert any("Hadoop" in client for client in proxy.clients)
        assert not [*tmp_path.rglob("offsets")]
