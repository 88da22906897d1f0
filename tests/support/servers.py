"""S3 servers for the tests: started on loopback when first needed, stopped by their process when the tests end."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.waiting import locked, wait_until

_WORKER, _WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw15").removeprefix("gw")), 16
_ports = list(range(10_000 + _WORKER, 32_768, _WORKERS))  # none is another worker's
random.SystemRandom().shuffle(_ports)  # which the seed of a test does not repeat

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtest", "AWS_REGION": "eu-west-3"}


def free_port() -> int:
    """A port on loopback that nothing listens to, that is given once, and that no kernel gives to whoever asks."""
    while True:
        port = _ports.pop()
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def _serving(command: list[str], port: int, probe: str = "", scheme: str = "http") -> Iterator[str]:
    """Run a server until the context ends; gives its address once it answers."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        address = f"{scheme}://127.0.0.1:{port}"
        try:
            _wait(process, address + probe)
            yield address
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    def is_up() -> bool:
        assert process.poll() is None, f"{process.args!r} has ended"
        return answers(address)

    wait_until(is_up, said=lambda: f"for {process.args!r} at {address}")


def answers(address: str) -> bool:
    """Whether a server is there."""
    try:
        urllib.request.urlopen(address, timeout=1).close()
    except urllib.error.HTTPError:
        return True  # it wants a signature
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLCertVerificationError)  # it is there, and its authority is private
    except OSError:
        return False
    return True


@contextmanager
def moto() -> Iterator[str]:
    """Moto's server, from PyPI."""
    port = free_port()
    with _serving([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port) as address:
        yield address


@contextmanager
def moto_over_tls(folder: Path) -> Iterator[tuple[str, Path]]:
    """The same over HTTPS, with a certificate of a private authority, whose own is in the file that comes second."""
    port, authority = free_port(), write_certificates(folder)
    files = ["-c", str(folder / "server.pem"), "-k", str(folder / "server.key")]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port), *files]
    with _serving(command, port, scheme="https") as address:
        yield address, authority


def write_certificates(folder: Path) -> Path:
    """A private authority, and `server.pem` with `server.key` for 127.0.0.1; returns the authority's certificate."""
    own, servers = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Private CA é")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
    now = datetime.now(UTC)

    def certify(whose: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder().subject_name(whose).issuer_name(issuer).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=True)
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        return builder.sign(own, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    authority = folder / "authority.pem"
    authority.write_bytes(certify(issuer, own.public_key(), x509.BasicConstraints(ca=True, path_length=None)))
    (folder / "server.pem").write_bytes(certify(subject, servers.public_key(), address))
    (folder / "server.key").write_bytes(
        servers.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return authority


@contextmanager
def versitygw() -> Iterator[str]:
    """versitygw, a real S3 server in Go, built once."""
    with tempfile.TemporaryDirectory() as folder, versitygw_on(Path(folder)) as address:
        yield address


@contextmanager
def versitygw_on(folder: Path) -> Iterator[str]:
    """The same, with its buckets as folders in `folder`."""
    program = _go_program("github.com/versity/versitygw/cmd/versitygw@v1.8.0", "versitygw")
    port = free_port()
    keys = ["--access", CREDENTIALS["AWS_ACCESS_KEY_ID"], "--secret", CREDENTIALS["AWS_SECRET_ACCESS_KEY"]]
    command = [str(program), "--port", f"127.0.0.1:{port}", *keys, "--region", "eu-west-3", "posix", str(folder)]
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
    folder.mkdir(exist_ok=True)
    with locked(folder / f"{name}.lock"):  # or each worker would compile it
        if not program.exists():
            subprocess.run(["go", "install", package], check=True, env={**os.environ, "GOBIN": str(folder)})
    return program


class SlowStore:
    """A store behind toxiproxy, which adds a delay to each answer."""

    def __init__(self, control: str, address: str) -> None:
        self._control = control
        self.address = address

    def delay(self, seconds: float) -> None:
        """From now on."""
        with suppress(urllib.error.HTTPError):  # there was none
            self._call("DELETE", "proxies/store/toxics/delay", {})
        toxic = {"name": "delay", "type": "latency", "attributes": {"latency": round(seconds * 1000)}}
        self._call("POST", "proxies/store/toxics", toxic)

    def _call(self, method: str, path: str, body: Mapping[str, object]) -> None:
        request = urllib.request.Request(f"{self._control}/{path}", json.dumps(body).encode(), method=method)
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def toxiproxy(target: str) -> Iterator[SlowStore]:
    """A delay in front of a store."""
    program = _go_program("github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0", "server")
    control, listen = free_port(), free_port()
    with _serving([str(program), "-port", str(control)], control, "/version") as address:
        slow = SlowStore(address, f"http://127.0.0.1:{listen}")
        proxy = {"name": "store", "listen": f"127.0.0.1:{listen}", "upstream": urlsplit(target).netloc}
        slow._call("POST", "proxies", proxy)
        yield slow


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
        failures: statuses and error codes by the last part of a key.
        cut: last parts of keys whose answers break off in the middle.
        requests: all that came, by method and by folder: "LIST output/_manifests", "GET input".
        clients: those who sent them, as they call themselves.
    """

    def __init__(self, target: str) -> None:
        self.refuse = self.reset = self.delay = 0.0
        self.out = False
        self.denial: str | None = None
        self.denials: dict[str, str] = {}
        self.failures: dict[str, tuple[int, str]] = {}
        self.cut: set[str] = set()
        self.faults = 0
        self.requests: Counter[str] = Counter()
        self.clients: set[str] = set()
        self._target = urlsplit(target)
        self._random = random.Random(0)
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                store._answer(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815 - the names are http.server's

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
        time.sleep(self.delay)  # the fault that was asked for
        lot = self._random.random()
        if self.out:
            self.faults += 1
            return
        last = urlsplit(request.path).path.rpartition("/")[2]
        if denial := self.denial or self.denials.get(last):
            self._send(request, 403, [], _error(denial))
            return
        if last in self.failures:
            status, code = self.failures[last]
            self._send(request, status, [], _error(code))
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
            self.requests[_kind(request.command, request.path)] += 1
            self.clients.add(request.headers.get("User-Agent", ""))
            if last in self.cut or lot < self.refuse + self.reset:
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


def _kind(method: str, path: str) -> str:
    parts = urlsplit(path)
    bucket_and_key = parts.path.strip("/").split("/")
    if len(bucket_and_key) == 1:
        method, key = "LIST", parse_qs(parts.query).get("prefix", [""])[0]
    else:
        key = "/".join(bucket_and_key[1:])
    folders = [name for name in key.split("/") if name]
    return f"{method} {'/'.join(folders[: 2 if folders[:1] == ['output'] else 1])}"
