"""Serves boto3's AWS credentials to Java.

boto3 knows more sources than the SDK for Java that Spark brings: single sign-on, credential_process, roles of profiles.
So Java asks this process, by the protocol of a container's credentials, and gets boto3's, refreshed by boto3.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from conf.aws.connection import credentials

CREDENTIALS_PROVIDER = "org.apache.hadoop.fs.s3a.auth.IAMInstanceCredentialsProvider"
"""S3A's class for the credentials of a container."""

# boto3 renews credentials ten minutes before they end, and the SDK for Java asks again a quarter of an hour before.
_ASK_AGAIN = timedelta(minutes=16)


@cache
def serve_credentials() -> Mapping[str, str | None]:
    """Serve this process's credentials on loopback for as long as it lives.

    Returns:
        Environment variables for the processes that use them; None for a variable that must not be set.
    """
    token = secrets.token_urlsafe(32)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if hmac.compare_digest(self.headers.get("Authorization", "").encode(), token.encode()):
                self._answer(*_current())
            else:
                self._answer(HTTPStatus.FORBIDDEN, {"message": "the authorization token is wrong"})

        def _answer(self, status: HTTPStatus, content: Mapping[str, str]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="credentials", daemon=True).start()
    return {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{server.server_port}/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": None,  # it would win over the address
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": None,  # as would this over the token
    }


def _current() -> tuple[HTTPStatus, dict[str, str]]:
    try:
        keys = credentials()
    except Exception as error:  # noqa: BLE001 - of whatever source; Java tells people what went wrong
        return HTTPStatus.INTERNAL_SERVER_ERROR, {"code": type(error).__name__, "message": str(error)}
    if keys is None:
        return HTTPStatus.NOT_FOUND, {"code": "NoCredentials", "message": "boto3 finds no credentials"}
    again = datetime.now(UTC) + _ASK_AGAIN
    return HTTPStatus.OK, {
        "AccessKeyId": keys.access_key,
        "SecretAccessKey": keys.secret_key,
        "Token": keys.token or "",
        "Expiration": again.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
