"""S3 servers for the tests: started on loopback when first needed, stopped by their process when the tests end."""

from __future__ import annotations

import http.client
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtest", "AWS_REGION": "eu-west-3"}


def free_port() -> int:
    """A port on loopback that nothing listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _serving(command: list[str], port: int, **environment: str) -> Iterator[str]:
    """Run a server until the context ends; gives its address once it answers."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}
        )
        address = f"http://127.0.0.1:{port}"
        try:
            _wait(process, address)
            yield address
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    give_up = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < give_up:
        try:
            urllib.request.urlopen(address, timeout=1).close()
        except urllib.error.HTTPError:
            return  # it answers, and wants a signature
        except OSError:
            time.sleep(0.05)
            continue
        return
    raise RuntimeError(f"{process.args!r} does not answer at {address}")


@contextmanager
def moto() -> Iterator[str]:
    """Moto's server, from PyPI."""
    port = free_port()
    with _serving([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port) as address:
        yield address


@contextmanager
def versitygw() -> Iterator[str]:
    """versitygw, a real S3 server in Go; built once and kept in the user's cache of Go programs."""
    program = _go_program("github.com/versity/versitygw/cmd/versitygw@v1.8.0", "versitygw")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        keys = ["--access", CREDENTIALS["AWS_ACCESS_KEY_ID"], "--secret", CREDENTIALS["AWS_SECRET_ACCESS_KEY"]]
        command = [str(program), "--port", f"127.0.0.1:{port}", *keys, "--region", "eu-west-3", "posix", folder]
        with _serving(command, port) as address:
            yield address


def _go_program(package: str, name: str) -> Path:
    folder = Path(tempfile.gettempdir()) / "picture-features-go"
    program = folder / name
    if program.exists():
        return program
    if shutil.which("go") is None:
        message = f"this test needs Go, to build {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    subprocess.run(["go", "install", package], check=True, env={**os.environ, "GOBIN": str(folder)})
    return program


class FaultyStore:
    """A store behind a proxy that can be told to fail.

    Attributes:
        address: of the proxy.
        refuse: a share of requests that are answered 503 SlowDown.
        reset: a share of requests whose answer breaks off in the middle.
        delay: seconds before each answer.
        out: whether no connection is answered at all.
        denial: an error code that every request is answered with, as 403.
        denials: such codes by the last part of a key.
        requests: all that were passed on, as "GET Bucket" or "PUT Key".
    """

    def __init__(self, target: str) -> None:
        self.refuse = self.reset = self.delay = 0.0
        self.out = False
        self.denial: str | None = None
        self.denials: dict[str, str] = {}
        self.faults = 0
        self.requests: Counter[str] = Counter()
        self._target = urlsplit(target)
        self._random = random.Random(0)
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                store._answer(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Keep silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        time.sleep(self.delay)
        lot = self._random.random()
        if self.out:
            self.faults += 1
            return
        name = urlsplit(request.path).path.rpartition("/")[2]
        if denial := self.denial or self.denials.get(name):
            self._send(request, 403, [], _error(denial))
            return
        if lot < self.refuse:
            self.faults += 1
            self._send(request, 503, [], _error("SlowDown"))
            return
        upstream = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=60)
        try:
            # The signature covers the Host header, so the store is told the proxy's.
            upstream.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() != "expect":  # answered already
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
            if request.command != "HEAD" and not any(name.lower() == "content-length" for name, _ in headers):
                headers.append(("Content-Length", str(len(content))))
            self.requests[f"{request.command} {_kind(request.path)}"] += 1
            if lot < self.refuse + self.reset:
                self.faults += 1
                content, request.close_connection = content[: len(content) // 2], True
            self._send(request, answer.status, headers, content)
        finally:
            upstream.close()

    def _send(self, request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        with suppress(OSError):
            request.send_response_only(status)
            for name, value in headers or [("Content-Length", str(len(body))), ("Content-Type", "application/xml")]:
                request.send_header(name, value)
            request.send_header("Connection", "close")
            request.end_headers()
            if request.command != "HEAD":
                request.wfile.write(body)


_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


def _error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told to fail</Message></Error>".encode()


def _kind(path: str) -> str:
    parts = urlsplit(path)
    return "bucket" if parts.path.strip("/").count("/") == 0 else "key"
