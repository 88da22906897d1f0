"""Retries: what then passes leaves quarantine, whoever is killed when; no Spark needed."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conf.errors import AppError
from streaming.lease.denylist import NOTHING, Denylist, Entry, new_salt
from streaming.lease.tenure import Tenure
from streaming.output import known, manifests, retries
from streaming.output.decision import is_decided, read_decision
from streaming.output.inbox import Inbox
from streaming.output.manifest_log import ManifestLog
from streaming.output.manifests import append_manifest, manifest_ids, read_manifest
from streaming.output.recovery import finish_manifest, recover
from streaming.output.retries import Quarantined, create_retry, retry_ids
from streaming.output.tables import Tables
from streaming.storage.folder import Folder
from streaming.storage.local_folder import LocalFolder
from tests.support.outcomes import NOW, named, result_of
from tests.support.tenures import LooseTenure, LoseableLease
from tests.support.trap import ANY_CALL, WHENS, Killed, TrapFolder, When


def _tenure(output: Folder, reasons: dict[str, str], check: Callable[[], None] = lambda: None) -> None:
    """What a holder of the lease does to its end, after one that was killed when it had folded its log."""
    tenure, sink = LooseTenure(output, check), Tables(output)
    Inbox(_log(tenure)).close_retries()
    known.fold(tenure, [manifest for manifest in manifest_ids(output) if is_decided(output, manifest)])
    log = _log(tenure)
    inbox = Inbox(log)
    inbox.take_in(10)
    for manifest in manifest_ids(output):
        if log.admit(manifest):
            with tenure.writing():
                sink.commit(manifest, result_of(manifest, read_manifest(output, manifest), reasons))
    inbox.close_retries()


def _log(tenure: Tenure) -> ManifestLog:
    """As at the start of a stream."""
    return ManifestLog(tenure, recover(tenure))


def _rows(output: Folder, table: str) -> list[tuple[str, str, str | None]]:
    """Name, manifest and reason; of a manifest that is not finished no row counts."""
    finished = [name for name in output.names(table) if is_decided(output, Path(name).stem)]
    return [
        (row["path"][4], Path(name).stem, row.get("reason"))
        for name in finished
        for row in pq.read_table(io.BytesIO(output.read(name))).to_pylist()
    ]


def _row(name: str, manifest: str) -> Quarantined:
    [picture] = named(name)
    return Quarantined(picture, manifest)


def _retry(output: Folder, names: str = "abcdefg") -> str:
    rows = _rows(output, "quarantine")
    return create_retry(output, [_row(one, manifest) for one, manifest, _ in rows if one in names])


def test_a_retry_whose_pictures_were_all_forgotten_goes(output: Folder) -> None:
    """A killed forget has emptied its file, and not deleted it: there is no manifest without pictures."""
    log = _log(LooseTenure(output))
    output.create(f"_requests/{'0' * 32}{manifests.RETRY}.json", b"")
    Inbox(log).take_in(10)
    assert not retry_ids(output)
    assert not manifest_ids(output)


def _counted(output: Folder) -> Counter[str]:
    return Counter(name for table in ("features", "quarantine") for name, *_ in _rows(output, table))


@pytest.fixture
def quarantined(output: Folder) -> Folder:
    """An output of the pictures a to g, of which b, d, e and f are in the quarantine of two manifests."""
    for names in ("abc", "defg"):
        append_manifest(output, named(names), NOW)
    _tenure(output, {"b": "denied", "d": "denied", "e": "corrupt", "f": "vanished"})
    return output


def test_what_passes_leaves_quarantine_and_what_fails_again_stays_once(quarantined: Folder) -> None:
    """With the newest reason; asking twice before the stream takes it in is asking once."""
    assert _retry(quarantined) == _retry(quarantined)
    _tenure(quarantined, {"e": "corrupt", "f": "denied"})
    assert _counted(quarantined) == Counter("abcdefg")
    assert sorted((name, reason) for name, _, reason in _rows(quarantined, "quarantine")) == [
        ("e", "corrupt"),
        ("f", "denied"),
    ]
    assert retry_ids(quarantined) == []
    _retry(quarantined)
    _tenure(quarantined, {})
    assert sorted(name for name, *_ in _rows(quarantined, "features")) == list("abcdefg")
    [manifest] = manifest_ids(quarantined)
    quarantined.delete(f"_manifests/{manifest}.json")
    known.check_log(quarantined)  # a hand that deletes it makes nothing unknown


@pytest.mark.parametrize("when", [*WHENS, ANY_CALL])
def test_whoever_is_killed_or_comes_late_repeats_and_loses_nothing(
    quarantined: Folder, when: When, tmp_path: Path
) -> None:
    """At any write, or any call: at each moment, each picture is in one of the tables; in the end in one only, once."""
    trapped = 0
    for nth in itertools.count(1):
        root = str(tmp_path / f"{when} {nth}")
        _copy(quarantined, root)
        output, lease = LocalFolder(root), LoseableLease()
        trap = TrapFolder(output, nth, when, partial(_take_over, output, lease))
        tenure = partial(_tenure, reasons={"e": "corrupt", "f": "denied"})
        for step, again in ((_retry, _retry), (partial(tenure, check=lease.check), tenure)):
            try:
                step(trap)
            except Killed:
                assert set(_counted(output)) == set("abcdefg"), nth
                again(output)
            except AppError:
                assert lease.lost
        _tenure(output, {"e": "corrupt"})
        assert _counted(output) == Counter("abcdefg"), nth
        assert {"e"} <= {name for name, *_ in _rows(output, "quarantine")} <= {*"ef"}, nth
        assert retry_ids(output) == []
        if trap.left > 0:
            break
        trapped += 1
    assert trapped > 9


def _take_over(output: Folder, lease: LoseableLease) -> None:
    lease.lost = True
    _tenure(output, {"e": "denied"})
    assert set(_counted(output)) == set("abcdefg")


def _copy(folder: Folder, root: str) -> None:
    for name in folder.names(""):
        LocalFolder(root).create(name, folder.read(name))


def test_retries_that_overlap_repeat_nothing(quarantined: Folder) -> None:
    """Some by reason and then all; and one whose rows are gone by the time when it is taken in."""
    late = [_row(name, manifest) for name, manifest, _ in _rows(quarantined, "quarantine")]
    _retry(quarantined, "bd")
    _retry(quarantined)
    _retry(quarantined, "de")
    _tenure(quarantined, {"f": "denied"})
    assert _counted(quarantined) == Counter("abcdefg")
    create_retry(quarantined, late)
    _tenure(quarantined, {})
    assert _counted(quarantined) == Counter("abcdefg")
    assert retry_ids(quarantined) == []


def test_a_forgotten_picture_is_not_retried(quarantined: Folder) -> None:
    """Its row is left to forget, which sweeps quarantine; the others are retried."""
    _retry(quarantined)
    denylist = Denylist([Entry.of([named("d")[0].path], [], new_salt(), NOW)])
    log = ManifestLog(LooseTenure(quarantined, denylist=denylist), known.KnownPictures(quarantined))
    Inbox(log).take_in(10)
    [manifest] = [manifest for manifest in manifest_ids(quarantined) if manifest.endswith("-retry")]
    assert {picture.path[4] for picture in read_manifest(quarantined, manifest)} == {*"bef"}
    assert len(retry_ids(quarantined)) == 1


@pytest.mark.parametrize("seen", ["running", "at the start"])
def test_a_manifest_of_a_former_holder_for_the_same_retry_is_withdrawn(quarantined: Folder, seen: str) -> None:
    """It woke up after its lease and appended one more."""
    retry = _retry(quarantined)
    log = _log(LooseTenure(quarantined))
    Inbox(log).take_in(10)
    [ours] = [manifest for manifest in manifest_ids(quarantined) if manifest.endswith(retry)]
    foreign = append_manifest(quarantined, named("bdef"), datetime.now(UTC), retry)
    if seen == "running":
        assert log.admit(ours)
        assert not log.admit(foreign)
    _tenure(quarantined, {})
    assert read_decision(quarantined, foreign).withdrawn
    assert _counted(quarantined) == Counter("abcdefg")
    late = append_manifest(quarantined, named("bdef"), datetime.now(UTC), retry)
    _tenure(quarantined, {})
    assert read_decision(quarantined, late).withdrawn
    assert _counted(quarantined) == Counter("abcdefg")


def test_two_holders_that_withdraw_leave_a_retry_its_manifest(quarantined: Folder, tmp_path: Path) -> None:
    """The second, while it runs, meets one of the first that comes late; the third starts meanwhile, and goes on."""
    for nth in itertools.count(1):
        _copy(quarantined, str(tmp_path / str(nth)))
        output, lease = LocalFolder(str(tmp_path / str(nth))), LoseableLease()
        trapped = TrapFolder(output, 0, ANY_CALL)
        second = _log(LooseTenure(trapped, lease.check))
        retry = _retry(output)
        Inbox(second).take_in(10)
        late = append_manifest(output, named("bdef"), NOW, retry)
        third: list[ManifestLog] = []

        def meanwhile(output: Folder = output, lease: LoseableLease = lease, third: list[ManifestLog] = third) -> None:
            lease.lost = True
            third.append(_log(LooseTenure(output)))

        trapped.trap(nth, meanwhile)
        with suppress(AppError):
            second.admit(late)
        if trapped.left > 0:
            break
        inbox = Inbox(third[0])
        inbox.take_in(10)
        for manifest in manifest_ids(output):
            if is_decided(output, manifest):
                finish_manifest(output, manifest, NOTHING)
            elif third[0].admit(manifest):
                Tables(output).commit(manifest, result_of(manifest, read_manifest(output, manifest), {}))
        inbox.close_retries()
        assert _counted(output) == Counter("abcdefg"), nth
        assert _rows(output, "quarantine") == []
        assert retry_ids(output) == []
    assert nth > 3


def test_rows_of_an_unfinished_manifest_and_of_other_pictures_stay(quarantined: Folder) -> None:
    """Also while somebody else rewrites the file."""
    [first, second] = sorted({manifest for _, manifest, _ in _rows(quarantined, "quarantine")})
    retries.remove_rows(quarantined, second, ["/in/e %.jpg", "/in/b %.jpg"])
    retries.remove_rows(quarantined, "20260101T000000000000Z-none", ["/in/e %.jpg"])
    assert sorted(name for name, *_ in _rows(quarantined, "quarantine")) == ["b", "d", "f"]
    retries.remove_rows(quarantined, first, ["/in/b %.jpg"])
    assert sorted(name for name, *_ in _rows(quarantined, "quarantine")) == ["d", "f"]
    assert len(list(quarantined.names("quarantine"))) == 2
