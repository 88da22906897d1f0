"""Reads that do not end, as from a file server that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conf.aws.connection import AWS_DEFAULTS, S3Connection
from streaming.features import fetching, reading
from streaming.features.fetching import Fetcher
from streaming.features.imaging import Rejected
from streaming.features.reading import PictureReader
from streaming.features.reasons import Reason
from streaming.storage.locations import read_picture

_AT_ONCE = 4


class _FileServer:
    """Some files on it hang: whoever reads them waits until it is back."""

    def __init__(self, source: Path) -> None:
        self.hanging: set[str] = set()
        self.back = threading.Event()
        self.source = source

    def read(self, path: str, limit: int, connection: S3Connection) -> bytes:
        if Path(path).name in self.hanging:
            self.back.wait()
        return read_picture(path, limit, connection)

    def fetch(self, *names: str) -> list[bytes | Rejected]:
        """What becomes of these pictures."""
        paths = [str(self.source / name) for name in names]
        fetch = Fetcher(PictureReader(100, AWS_DEFAULTS, str(self.source)), 100, _AT_ONCE)
        return [_outcome(content) for content in fetch(paths, [1] * len(paths))]


def _outcome(content: Callable[[], bytes]) -> bytes | Rejected:
    try:
        return content()
    except Rejected as rejected:
        return rejected


@pytest.fixture
def server(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_FileServer]:
    """With files 0 to 39, each of which has its name as content."""
    server = _FileServer(source)
    for number in range(40):
        (source / str(number)).write_text(str(number))
    monkeypatch.setattr(reading, "read_picture", server.read)
    monkeypatch.setattr(fetching, "_LONGEST_READ", 0.2)
    monkeypatch.setattr(fetching, "_LATE_SECONDS", 2)
    yield server
    server.back.set()


@pytest.mark.parametrize("hanging", [1, _AT_ONCE, _AT_ONCE + 3])
def test_pictures_whose_reads_do_not_end_cost_no_other_its_bytes(server: _FileServer, hanging: int) -> None:
    """However many threads they hold up."""
    names = [str(number) for number in range(40)]
    server.hanging = {*names[:hanging]}
    found = server.fetch(*names)
    for name, outcome in zip(names, found, strict=True):
        if name in server.hanging:
            assert isinstance(outcome, Rejected)
            assert outcome.reason is Reason.UNREADABLE
            assert outcome.detail == "reading it has not ended after 0.2s; others can be read"
        else:
            assert outcome == name.encode()


def test_a_server_that_hangs_as_a_whole_is_waited_for(server: _FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture is condemned for it."""
    monkeypatch.setattr(fetching, "_LATE_SECONDS", 60)
    server.hanging = {str(number) for number in range(40)}
    threading.Timer(1, server.back.set).start()
    assert server.fetch("3", "4") == [b"3", b"4"]
