"""S3 servers for the tests: started on loopback when first needed, stopped by their process when the tests end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
