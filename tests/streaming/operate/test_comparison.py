"""The rules of reconcile, on tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from streaming.operate.comparison import LISTED, SEEN, InputComparison, as_listed, as_seen
from streaming.output.places import Input
from streaming.storage.folder import StoredPicture

STARTED = datetime(2026, 1, 31, 12, tzinfo=UTC)
BEFORE, LATER = "20260131T115959999999Z-a", "20260131T120000000001Z-a"


def _kinds(listed: StoredPicture | None, seen: Sequence[tuple[StoredPicture, str | None]], root: str = "/in") -> str:
    """The kinds of the differences about one picture, which the stream has seen in manifests or (None) requests."""
    listing = pa.Table.from_batches(as_listed([listed] if listed else [], timedelta(0)), LISTED)
    known = pa.concat_tables([SEEN.empty_table(), *(as_seen([picture], manifest) for picture, manifest in seen)])
    return " ".join(InputComparison.of(Input(root), STARTED).differences(listing, known).column("what").to_pylist())


def _picture(
    path: str = "/in/a.jpg", length: int = 1, after: timedelta = timedelta(0), tag: str | None = None
) -> StoredPicture:
    return StoredPicture(path, length, STARTED - timedelta(days=1) + after, tag)


def test_a_manifest_counts_before_a_request_and_the_latest_before_all() -> None:
    """In whatever order the files are read."""
    now, former = _picture(length=2), _picture()
    earlier = "20250101T000000000000Z-a"
    assert _kinds(now, []) == "missed"
    assert _kinds(now, [(former, None), (former, None)]) == "requested"
    for seen in [(now, BEFORE), (former, earlier)], [(now, BEFORE), (former, None)]:
        assert _kinds(now, seen) == _kinds(now, seen[::-1]) == ""
        assert _kinds(former, seen) == _kinds(former, seen[::-1]) == "changed"


@pytest.mark.parametrize(
    ("path", "manifest", "kinds"),
    [
        ("/in/a.jpg", BEFORE, "gone"),
        ("/in/a.jpg", LATER, ""),
        ("/in/a.jpg", None, ""),
        ("/inside/a.jpg", BEFORE, ""),
    ],
)
def test_gone_is_what_was_in_the_input_when_its_listing_began(path: str, manifest: str | None, kinds: str) -> None:
    """Not what the stream has found since, nor what is requested, nor another input's."""
    assert _kinds(None, [(_picture(path), manifest)]) == kinds


@pytest.mark.parametrize("root", ["/", "s3://b"])
def test_a_whole_store_is_an_input(root: str) -> None:
    """Whose path ends as no other's."""
    assert _kinds(None, [(_picture(f"{root.rstrip('/')}/a.jpg"), BEFORE)], root) == "gone"


def test_a_minute_apart_is_the_same_on_s3() -> None:
    """Unless the tag differs, or the length; on a file system each microsecond counts."""

    def kinds(now: StoredPicture) -> str:
        root = "s3://b" if now.path.startswith("s3:") else "/in"
        return _kinds(now, [(_picture(now.path, tag=None if root == "/in" else "t"), BEFORE)], root)

    path, minute = "s3://b/a.jpg", timedelta(minutes=1)
    for same in (minute, -minute):
        assert kinds(_picture(path, 1, same, "t")) == kinds(_picture(path, 1, same)) == ""
    for differs in (minute + timedelta(microseconds=1), -minute - timedelta(microseconds=1)):
        assert kinds(_picture(path, 1, differs, "t")) == kinds(_picture(path, 1, differs)) == "changed"
    assert kinds(_picture(path, 1, tag="u")) == kinds(_picture(path, 2, tag="t")) == "changed"
    assert kinds(_picture(after=timedelta(microseconds=1))) == "changed"
