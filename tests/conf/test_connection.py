"""The client of S3: what it sends."""

from __future__ import annotations

import io
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from urllib3 import HTTPResponse

from conf.aws.connection import S3Connection


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
