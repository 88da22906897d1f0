"""A proxy that the environment names: Python and Java take the same."""

from __future__ import annotations

import pytest

from conf.aws.connection import S3Connection, forget_clients
from tests.support.servers import CREDENTIALS


@pytest.mark.parametrize(
    ("endpoint", "proxy", "expected"),
    [
        ("http://store.invalid", None, {}),
        ("http://localhost:9000", "http://proxy:3128", {}),
        ("http://store.invalid", "http://proxy:3128", {"host": "proxy", "port": "3128", "ssl.enabled": "false"}),
        (
            "http://store.invalid",
            "https://me:p%40ss@proxy",
            {"host": "proxy", "port": "443", "ssl.enabled": "true", "username": "me", "password": "p@ss"},
        ),
    ],
)
def test_java_gets_the_proxy_that_boto3_takes(
    endpoint: str, proxy: str | None, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**CREDENTIALS, "NO_PROXY": "localhost"}.items():
        monkeypatch.setenv(name, value)
    if proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
    forget_clients()
    properties = S3Connection(endpoint=endpoint).spark_properties()
    prefix = "spark.hadoop.fs.s3a.proxy."
    assert {key.removeprefix(prefix): value for key, value in properties.items() if key.startswith(prefix)} == expected
