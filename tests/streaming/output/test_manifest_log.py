"""A picture is in one manifest only, also when a driver wakes up after its lease and appends one more."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from conf.errors import StorageError, TransientError
from streaming.features.schema import FEATURES
from streaming.output.decision import FEATURES_TABLE, read_decision
from streaming.output.inbox import Inbox
from streaming.output.known import KnownPictures
from streaming.output.manifest_log import ManifestLog, withdraw_repeating
from streaming.output.manifests import append_manifest, manifest_ids, read_manifest, table_file
from streaming.output.requests import read_request, request_ids
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.parquet import as_parquet
from tests.support.tenures import LooseTenure, new_log

NOW = datetime(2026, 1, 31, tzinfo=UTC)
EARLIER = datetime(2026, 1, 30, tzinfo=UTC)


def _pictures(names: str) -> list[StoredPicture]:
    return [StoredPicture(f"/in/{name}", 1, NOW) for name in names]


def _names(pictures: list[StoredPicture]) -> str:
    return "".join(picture.path[-1] for picture in pictures)


def test_a_manifest_of_a_former_holder_is_withdrawn_if_it_repeats_a_picture(output: Folder) -> None:
    """What only it has is requested, and comes into a manifest of ours."""
    log = new_log(output)
    log.append(_pictures("abc"))
    [ours] = manifest_ids(output)
    foreign = append_manifest(output, _pictures("cde"), EARLIER)
    assert log.admit(ours)
    assert not log.admit(foreign)
    assert read_decision(output, foreign).withdrawn
    Inbox(log).take_in(10)
    assert [_names(read_manifest(output, manifest)) for manifest in manifest_ids(output)] == ["abc", "de"]


def test_a_manifest_of_a_former_holder_that_repeats_nothing_is_taken_over(output: Folder) -> None:
    """Its pictures are known from then on."""
    log = new_log(output)
    foreign = append_manifest(output, _pictures("ab"), EARLIER)
    assert log.admit(foreign)
    assert _names(log.unknown(_pictures("abc"))) == "c"


def test_a_manifest_that_comes_late_while_a_start_reads_the_log_is_none_of_ours(output: Folder) -> None:
    """The request of a killed holder may arrive after the log was read, and before anything is appended."""
    known = KnownPictures(output)
    foreign = append_manifest(output, _pictures("ab"), EARLIER)
    log = ManifestLog(LooseTenure(output), known)
    log.append(_pictures("abc"))
    assert not log.admit(foreign)
    assert [_names(read_manifest(output, manifest)) for manifest in manifest_ids(output)] == ["abc"]


@pytest.mark.parametrize(("committed", "withdrawn"), [("", "second"), ("first", "second"), ("second", "first")])
def test_repeats_are_withdrawn_at_the_start(output: Folder, committed: str, withdrawn: str) -> None:
    """Never a finished manifest."""
    ids = {
        "first": append_manifest(output, _pictures("abc"), EARLIER),
        "second": append_manifest(output, _pictures("bcd"), NOW),
    }
    if committed:
        output.create(table_file(FEATURES_TABLE, ids[committed]), as_parquet(FEATURES.empty_table()))
    known = withdraw_repeating(LooseTenure(output))
    assert manifest_ids(output) == [manifest for name, manifest in ids.items() if name != withdrawn]
    left = {"first": "d", "second": "a"}["first" if withdrawn == "second" else "second"]
    assert _names(known.unknown(_pictures("abcd"))) == left
    [request] = request_ids(output)
    assert _names(known.unknown(read_request(output, request))) == left
    assert withdraw_repeating(LooseTenure(output)).repeating == []


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
    monkeypatch.setattr("streaming.output.manifest_log.pauses", lambda: itertools.repeat(0.0))
    new_log(output).append(_pictures("ab"))
    assert [_names(read_manifest(output, manifest)) for manifest in manifest_ids(output)] == ["ab"]


def test_a_stop_ends_the_waiting_for_a_store_that_fails(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was written, so the next start finds the pictures anew."""
    tenure = LooseTenure(output)

    def fail(name: str, data: bytes) -> str:
        tenure.stop.set()
        raise TransientError("the store does not answer")

    monkeypatch.setattr(output, "create", fail)
    log = ManifestLog(tenure, KnownPictures(output))
    with pytest.raises(StorageError, match="does not answer; start again"):
        log.append(_pictures("a"))
    assert not manifest_ids(output)
