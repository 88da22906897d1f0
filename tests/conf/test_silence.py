"""A store that accepts connections and never answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from batch_fit.__main__ import main
from conf.aws.connection import forget_clients
from conf.errors import StorageError
from tests.support.servers import CREDENTIALS


@pytest.fixture
def silent_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        forget_clients()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    forget_clients()


def test_people_hear_of_it_after_the_first_attempt(
    silent_store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and not again with each attempt; the error comes when all attempts were in vain."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent_store)
    monkeypatch.setenv("PICTURE_FEATURES_S3__TIMEOUT", "1s")
    monkeypatch.setenv("PICTURE_FEATURES_S3__ATTEMPTS", "3")
    assert main(["models", "list", "--models", "s3://models/m", "--log-format", "text"]) == StorageError.exit_code
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.endswith(f"{silent_store} has not answered for 1s; trying again (attempt 2 of 3)")
    assert error.startswith("error: ")
