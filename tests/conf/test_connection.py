"""The client of S3: what it sends."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from urllib3 import HTTPResponse

from conf.aws.connection import S3Connection, forget_clients
from tests.support.servers import CREDENTIALS

_OF_A_NETWORK = "https://bucket.vpce-1a2b3c4d-5e6f.s3.eu-west-3.vpce.amazonaws.com"


@pytest.mark.parametrize("by", ["setting", "variable"])
def test_an_endpoint_that_is_named_reaches_workers_and_java_also_one_of_aws(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PrivateLink: without it they would go another way, which a policy may forbid."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    plain = S3Connection(region="eu-west-3")
    assert plain.resolved().endpoint is None
    assert "spark.hadoop.fs.s3a.endpoint" not in plain.spark_properties()
    if by == "variable":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", _OF_A_NETWORK)
        forget_clients()
    named = plain if by == "variable" else replace(plain, endpoint=_OF_A_NETWORK)
    assert named.resolved().endpoint == _OF_A_NETWORK
    properties = named.spark_properties()
    assert properties["spark.hadoop.fs.s3a.endpoint"] == _OF_A_NETWORK
    assert properties["spark.hadoop.fs.s3a.path.style.access"] == "false"
    forget_clients()


def test_a_put_does_not_ask_whether_it_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question would cost a round trip, of which a micro-batch has four."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = S3Connection(endpoint="http://127.0.0.1:9", region="eu-west-3").client()
    sent: list[dict[str, Any]] = []

    def answer(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        sent.append(dict(request.headers))
        return AWSResponse(request.url, 200, {}, HTTPResponse(io.BytesIO()))

    client.meta.events.register("before-send.s3", answer)
    client.put_object(Bucket="bucket", Key="key", Body=b"content", IfNoneMatch="*")
    [headers] = sent
    assert headers["If-None-Match"] == b"*"
    assert "Expect" not in headers
