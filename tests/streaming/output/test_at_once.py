"""Requests that do not depend on each other are under way at the same time: on S3 each takes 30 ms."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from streaming.output.known import KnownPictures
from streaming.output.manifests import append_manifest, manifest_ids, read_manifests
from streaming.output.tables import Tables, latest_files
from streaming.storage.folder import Folder
from tests.support.outcomes import named
from tests.support.trap import ANY_CALL, TrapFolder

_NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
_SECONDS = 20


class _Meeting(TrapFolder):
    """A folder that answers `count` requests, after the first few, only when all of them are under way."""

    def __init__(self, folder: Folder, count: int, after: int = 0) -> None:
        super().__init__(folder, 0, ANY_CALL)
        self._met = threading.Barrier(count)
        self._meeting = range(after, after + count)
        self.asked = 0

    def _meet(self) -> None:
        with self._lock:
            number, self.asked = self.asked, self.asked + 1
        if number in self._meeting:
            self._met.wait(_SECONDS)

    def read(self, name: str) -> bytes:
        self._meet()
        return super().read(name)

    def names(self, prefix: str) -> Iterator[str]:
        if not prefix.startswith("_"):
            self._meet()
        return super().names(prefix)


def _append(output: Folder) -> list[str]:
    for letter in "abcd":
        append_manifest(output, named(letter), _NOW)
    return manifest_ids(output)


def test_manifests_are_read_at_once(output: Folder) -> None:
    """Of a backlog, and those that a start finds in the log."""
    ids = _append(output)
    assert [one for one, _ in read_manifests(_Meeting(output, 4), ids)] == ids
    assert len(KnownPictures(_Meeting(output, 4))) == 4


def test_the_days_of_an_idle_month_are_listed_at_once(output: Folder) -> None:
    """But for the latest two, one of which has files as a rule; files of any age are found, the latest first."""
    days = [_NOW.date() - timedelta(days=back) for back in (400, 29, 3)]
    for day in days:
        output.create(f"features/date={day}/20260101.parquet", b"")
    expected = [f"features/date={day}/20260101.parquet" for day in reversed(days)]
    assert list(latest_files(_Meeting(output, 4, after=2), _NOW)) == expected
    output.create(f"features/date={_NOW.date()}/20260131.parquet", b"")
    busy = _Meeting(output, 1)
    assert next(latest_files(busy, _NOW)) == f"features/date={_NOW.date()}/20260131.parquet"
    assert busy.asked == 2


def test_tables_are_prepared_at_once(output: Folder) -> None:
    """Each is looked at while the others are."""
    Tables(_Meeting(output, 3), with_embeddings=True).prepare()
    assert len([*output.names("")]) == 3
