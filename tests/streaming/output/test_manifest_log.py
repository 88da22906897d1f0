"""A picture is in one manifest only, also when a driver wakes up after its lease and appends one more."""

from __future__ import annotations

import io
import itertools
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conf.errors import AppError, StorageError, TransientError
from streaming.features.schema import FEATURES
from streaming.lease.denylist import NOTHING
from streaming.output.decision import FEATURES_TABLE, is_decided, read_decision
from streaming.output.inbox import Inbox
from streaming.output.known import KnownPictures
from streaming.output.manifest_log import ManifestLog, withdraw_repeating
from streaming.output.manifests import append_manifest, manifest_ids, prepare_log, read_manifest, table_file
from streaming.output.recovery import finish_manifest, recover
from streaming.output.requests import read_request, request_ids
from streaming.output.tables import Tables
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet
from tests.support.outcomes import named, result_of
from tests.support.tenures import LooseTenure, LoseableLease, new_log
from tests.support.trap import ANY_CALL, WHENS, Killed, TrapFolder, When

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


class _Started:
    """A holder that has started, and taken in what was requested."""

    def __init__(self, output: Folder) -> None:
        tenure = LooseTenure(output)
        self._output, self._log = output, ManifestLog(tenure, recover(tenure))
        self._inbox = Inbox(self._log)
        self._inbox.take_in(10)

    def work(self) -> None:
        """What comes next, until there is nothing to do."""
        for manifest in manifest_ids(self._output):
            if is_decided(self._output, manifest):
                finish_manifest(self._output, manifest, NOTHING)
            elif self._log.admit(manifest):
                result = result_of(manifest, read_manifest(self._output, manifest), {})
                Tables(self._output).commit(manifest, result)
        if self._inbox.take_in(10):
            self.work()


@pytest.mark.parametrize("when", [*WHENS, ANY_CALL])
def test_two_holders_that_withdraw_agree_on_what(tmp_path: Path, when: When) -> None:
    """The second, while it runs, meets a manifest of the first that comes late; the third starts meanwhile.

    If each withdrew one of the two manifests that repeat each other, their pictures would be known, and in no table.
    """
    for nth in itertools.count(1):
        output, lease = open_folder(str(tmp_path / str(nth))), LoseableLease()
        prepare_log(output)
        third: list[_Started] = []

        def meanwhile(output: Folder = output, lease: LoseableLease = lease, third: list[_Started] = third) -> None:
            lease.lost = True
            third.append(_Started(output))

        trapped = TrapFolder(output, 0, when)
        second = ManifestLog(LooseTenure(trapped, lease.check), KnownPictures(output))
        second.append(named("x"))
        late = append_manifest(output, named("xy"), EARLIER)
        trapped.trap(nth, meanwhile)
        try:
            second.admit(late)
        except Killed:
            if not third:
                meanwhile()
        except AppError:
            assert lease.lost
        if trapped.left > 0:
            break
        third[0].work()
        rows = [pq.read_table(io.BytesIO(output.read(name)), columns=["path"]) for name in output.names("features")]
        assert sorted(path[4] for one in rows for path in one.column("path").to_pylist()) == ["x", "y"], nth
    assert nth > 3


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


@pytest.mark.parametrize("by_signal", [False, True])
def test_a_stop_ends_the_waiting_for_a_store_that_fails(
    output: Folder, monkeypatch: pytest.MonkeyPatch, *, by_signal: bool
) -> None:
    """Nothing was written, so the next start finds the pictures again."""
    tenure = LooseTenure(output)

    def fail(name: str, data: bytes) -> str:
        if by_signal:
            tenure.drain()
        else:
            tenure.stop.set()
        raise TransientError("the store does not answer")

    monkeypatch.setattr(output, "create", fail)
    log = ManifestLog(tenure, KnownPictures(output))
    with pytest.raises(StorageError, match="does not answer; start again"):
        log.append(_pictures("a"))
    assert not manifest_ids(output)
