"""A picture is in one manifest only, also when a driver wakes up after its lease and appends one more."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime

import pytest

from conf.errors import StorageError, TransientError
from streaming.features.stored import Folder, StoredPicture
from streaming.known import KnownPictures
from streaming.manifest_writer import ManifestWriter, withdraw_repeating
from streaming.manifests import append_manifest, is_withdrawn, manifest_ids, read_manifest, table_file
from streaming.requests import read_request, request_ids
from streaming.sink import QUARANTINE_TABLE

NOW = datetime(2026, 1, 31, tzinfo=UTC)
EARLIER = datetime(2026, 1, 30, tzinfo=UTC)


def _pictures(names: str) -> list[StoredPicture]:
    return [StoredPicture(f"/in/{name}", 1, NOW) for name in names]


def _names(pictures: list[StoredPicture]) -> str:
    return "".join(picture.path[-1] for picture in pictures)


def _writer(output: Folder) -> ManifestWriter:
    return ManifestWriter(output, KnownPictures(output), lambda: None)


def test_a_manifest_of_a_former_holder_is_withdrawn_if_it_repeats_a_picture(output: Folder) -> None:
    """What only it has is requested, and comes into a manifest of ours."""
    writer = _writer(output)
    writer.append(_pictures("abc"))
    [ours] = manifest_ids(output)
    foreign = append_manifest(output, _pictures("cde"), EARLIER)
    left = table_file(QUARANTINE_TABLE, foreign)
    output.create(left, b"of a killed attempt")
    assert writer.admit(ours)
    assert not writer.admit(foreign)
    assert is_withdrawn(output, foreign)
    assert not output.exists(left)
    writer.requests.take_in(10)
    assert [_names(read_manifest(output, manifest)) for manifest in manifest_ids(output)] == ["abc", "de"]


def test_a_manifest_of_a_former_holder_that_repeats_nothing_is_taken_over(output: Folder) -> None:
    """Its pictures are known from then on."""
    writer = _writer(output)
    foreign = append_manifest(output, _pictures("ab"), EARLIER)
    assert writer.admit(foreign)
    assert _names(writer.unknown(_pictures("abc"))) == "c"


@pytest.mark.parametrize(("committed", "withdrawn"), [("", "second"), ("first", "second"), ("second", "first")])
def test_repeats_are_withdrawn_at_the_start(output: Folder, committed: str, withdrawn: str) -> None:
    """Never a finished manifest."""
    ids = {
        "first": append_manifest(output, _pictures("abc"), EARLIER),
        "second": append_manifest(output, _pictures("bcd"), NOW),
    }
    known = withdraw_repeating(output, [manifest for name, manifest in ids.items() if name != committed])
    assert manifest_ids(output) == [manifest for name, manifest in ids.items() if name != withdrawn]
    left = {"first": "d", "second": "a"}["first" if withdrawn == "second" else "second"]
    assert _names(known.unknown(_pictures("abcd"))) == left
    [request] = request_ids(output)
    assert _names(known.unknown(read_request(output, request))) == left
    assert withdraw_repeating(output, manifest_ids(output)).repeating == []


def test_a_manifest_that_seemed_to_fail_is_tried_under_the_same_name(
    output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be there all the same: another one would repeat its pictures."""
    create = output.create
    answers = iter([TransientError("no answer"), TransientError("no answer")])

    def lose_the_answer(name: str, data: bytes) -> str:
        tag = create(name, data) if not list(output.names("_manifests")) else ""
        if failure := next(answers, None):
            raise failure
        return tag

    monkeypatch.setattr(output, "create", lose_the_answer)
    monkeypatch.setattr("streaming.manifest_writer.pauses", lambda: itertools.repeat(0.0))
    _writer(output).append(_pictures("ab"))
    assert [_names(read_manifest(output, manifest)) for manifest in manifest_ids(output)] == ["ab"]


def test_a_stop_ends_the_waiting_for_a_store_that_fails(output: Folder) -> None:
    """Nothing was written, so the next start finds the pictures anew."""
    stop = threading.Event()

    def fail() -> None:
        stop.set()
        raise TransientError("the store does not answer")

    writer = ManifestWriter(output, KnownPictures(output), fail, stop=stop)
    with pytest.raises(StorageError, match="does not answer; start again"):
        writer.append(_pictures("a"))
    assert not manifest_ids(output)
