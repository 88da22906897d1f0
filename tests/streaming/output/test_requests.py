"""Requests: left by anybody, taken in once by the holder of the lease; no Spark needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from conf.errors import OutputError
from streaming.discovery.by_listing import DiscoveryThread, ListingDiscoverer
from streaming.output import inbox, manifests, requests
from streaming.output.places import Input
from streaming.storage.folder import Folder, StoredPicture
from tests.support.tenures import new_listing

NOW = datetime(2026, 1, 31, 23, 59, 59, 123456, tzinfo=UTC)
PICTURES = [StoredPicture(f"/elsewhere/{number} %é#+.jpg", number, NOW, None) for number in range(7)]


def _discoverer(source: Path, output: Folder) -> ListingDiscoverer:
    return new_listing(Input(str(source)), output)


def _logged(output: Folder) -> list[list[str]]:
    log = manifests.manifest_ids(output)
    return [[picture.path for picture in manifests.read_manifest(output, one)] for one in log]


def test_the_same_request_is_one(output: Folder) -> None:
    """It comes back as it was made, and its id says what it asks for."""
    request = requests.create_request(output, PICTURES)
    assert requests.create_request(output, PICTURES) == request
    assert requests.create_request(output, PICTURES[1:]) != request
    assert len(requests.request_ids(output)) == 2
    assert requests.read_request(output, request) == PICTURES
    requests.delete_request(output, request)
    requests.delete_request(output, request)
    assert len(requests.request_ids(output)) == 1


def test_a_look_turns_requests_into_manifests_once(source: Path, output: Folder) -> None:
    """Of so many pictures each as asked, a picture once even if requested twice, and one that is known not at all."""
    requests.create_request(output, [*PICTURES, PICTURES[0]])
    requests.create_request(output, PICTURES[2:])
    (source / "a").touch()
    discoverer = _discoverer(source, output)
    assert discoverer.has_new()
    assert discoverer.look(3).found == 8
    logged = _logged(output)
    assert all(len(paths) <= 3 for paths in logged)
    assert sorted(path for paths in logged for path in paths) == sorted(
        [str(source / "a"), *(p.path for p in PICTURES)]
    )
    assert requests.request_ids(output) == []
    requests.create_request(output, PICTURES)
    other = _discoverer(source, output)
    assert other.has_new()
    assert other.look(3).found == 0
    assert not other.has_new()
    assert _logged(output) == logged


def test_a_kill_anywhere_repeats_nothing(source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after each of its manifests in turn, and before the request is deleted."""
    (source / "a").touch()
    request = requests.create_request(output, PICTURES)

    class Killed(BaseException):
        pass

    create = output.create

    def create_and_die(name: str, data: bytes) -> str:
        create(name, data)
        raise Killed

    def die(name: str) -> None:
        raise Killed

    for _ in range(5):
        monkeypatch.setattr(output, "create", create_and_die)
        monkeypatch.setattr(output, "delete", die)
        with suppress(Killed):
            _discoverer(source, output).look(2)
        monkeypatch.undo()
    assert requests.request_ids(output) == [request]
    assert sum(len(paths) for paths in _logged(output)) == 7
    _discoverer(source, output).look(2)
    assert requests.request_ids(output) == []
    assert sorted(path for paths in _logged(output) for path in paths) == sorted(
        [str(source / "a"), *(picture.path for picture in PICTURES)]
    )


def test_a_stream_that_looks_often_asks_for_requests_seldom(
    source: Path, output: Folder, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """Each time is a paid request on S3; what arrives meanwhile is taken in with the next."""
    monkeypatch.setattr(inbox, "_PAUSE_SECONDS", 0.5)
    asked: list[float] = []
    names = output.names

    def count(prefix: str) -> object:
        if prefix == requests.REQUESTS_FOLDER:
            asked.append(time.monotonic())
        return names(prefix)

    monkeypatch.setattr(output, "names", count)
    with DiscoveryThread(_discoverer(source, output), 10, timedelta(0)) as thread:
        wait_for(lambda: len(asked) > 0)
        requests.create_request(output, PICTURES)
        wait_for(lambda: len(_logged(output)) == 1)
        wait_for(lambda: len(asked) > 2)
    assert thread.failure is None
    assert min(later - earlier for earlier, later in pairwise(asked)) > 0.4  # it is decided a little before it is asked


def test_what_is_no_request_is_one_line(source: Path, output: Folder) -> None:
    """It names the file and says what to do."""
    output.create(f"{requests.REQUESTS_FOLDER}/x.json", b'{"path": 1}\n')
    with pytest.raises(OutputError, match=r"_requests/x\.json is not a request; delete it"):
        _discoverer(source, output).look(10)
