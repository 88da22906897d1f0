"""One write decides a manifest: no order of kills, pauses and late writes makes the tables disagree; without Spark."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conf.aws.connection import AWS_DEFAULTS
from conf.errors import AppError, OutputError
from streaming.engine.checkpoint import Epochs
from streaming.features.schema import QUARANTINE
from streaming.lease.denylist import NOTHING, Denylist, Entry, add_entry, make_salt
from streaming.output import known
from streaming.output.decision import QUARANTINE_TABLE, complete_manifest, is_decided, read_decision, withdraw
from streaming.output.embeddings import STAGED_FOLDER
from streaming.output.inbox import Inbox
from streaming.output.known import KnownPictures, check_log
from streaming.output.manifest_log import ManifestLog
from streaming.output.manifests import (
    append_manifest,
    manifest_ids,
    manifest_name,
    prepare_log,
    read_manifest,
    table_file,
)
from streaming.output.recovery import finish_manifest, finish_manifests, recover
from streaming.output.requests import request_ids
from streaming.output.rows import erase_in
from streaming.output.tables import Tables, quarantine_rows
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet, footer_of
from tests.support.buckets import Bucket, new_bucket_in_process
from tests.support.outcomes import NOW, name_of, named, result_of
from tests.support.tenures import LooseTenure
from tests.support.trap import ANY_CALL, WHENS, Killed, TrapFolder, When

Outcome = Mapping[str, str]
"""The reasons of pictures that are rejected; the others have features."""

_FATES: list[Outcome] = [{}, {"x": "vanished"}, {"x": "denied"}, {"y": "denied", "x": "vanished"}]


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power cut is tried here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def _tenure(output: Folder, outcome: Outcome, *, folds: bool = False) -> None:
    """What the holder of a lease does to its end; if it folds, no manifest is in the log any more."""
    tenure = LooseTenure(output)
    recover(tenure)
    sink = Tables(output)
    for manifest in manifest_ids(output):
        if is_decided(output, manifest):
            finish_manifest(output, manifest, NOTHING)
        else:
            sink.commit(manifest, result_of(manifest, read_manifest(output, manifest), outcome))
    if folds:
        known.fold(tenure, finish_manifests(output, NOTHING))


def _tenure_without_start(output: Folder, manifest: str, outcome: Outcome) -> None:
    Tables(output).commit(manifest, result_of(manifest, read_manifest(output, manifest), outcome))


def _new_output(root: str) -> tuple[Folder, str]:
    output = open_folder(root, AWS_DEFAULTS)
    prepare_log(output)
    return output, append_manifest(output, named("xy"), NOW)


def _rows(output: Folder) -> dict[str, dict[str, str | None]]:
    """The tables as a person reads them: by name, the reason for quarantine. A name that is there twice fails.

    The embeddings must be those of the features, in their order.
    """
    tables: dict[str, dict[str, str | None]] = {"features": {}, "quarantine": {}}
    for table, rows in tables.items():
        for name in output.names(table):
            for row in pq.read_table(io.BytesIO(output.read(name))).to_pylist():
                assert name_of(row["path"]) not in rows
                rows[name_of(row["path"])] = row.get("reason")
    assert _paths(output, "embeddings") == _paths(output, "features")
    return tables


def _paths(output: Folder, table: str) -> list[str]:
    files = [pq.read_table(io.BytesIO(output.read(name))) for name in output.names(table)]
    return [path for rows in files for path in rows.column("path").to_pylist()]


def _is(tables: Mapping[str, Mapping[str, str | None]], outcome: Outcome) -> bool:
    return tables["quarantine"] == outcome and tables["features"].keys() == {*"xy"} - outcome.keys()


def _meet(root: str, first: Outcome, second: Outcome, when: When, nth: int) -> bool:
    """Two tenures, the first of which is trapped at its nth write; whether it came so far."""
    output, _ = _new_output(root)

    def meanwhile() -> None:
        _tenure(output, second)
        tables = _rows(output)
        assert _is(tables, first) or _is(tables, second)

    trapped = TrapFolder(output, nth, when, meanwhile)
    try:
        _tenure(trapped, first)
    except Killed:
        _tenure(output, second)
    tables = _rows(output)
    assert _is(tables, first) or _is(tables, second), (first, second, when, nth)
    _tenure(output, {"x": "crashed", "y": "crashed"})
    assert _rows(output) == tables
    assert [*output.names(STAGED_FOLDER)] == []
    return trapped.left <= 0


@pytest.mark.parametrize("when", WHENS)
def test_two_attempts_that_see_different_outcomes_never_mix(tmp_path: Path, when: When) -> None:
    """Every pair of outcomes, at every write of the first; each picture is in one table, as one of the two saw it."""
    for number, (first, second) in enumerate(itertools.product(_FATES, _FATES)):
        for nth in itertools.count(1):
            if not _meet(str(tmp_path / f"{number} {nth}"), first, second, when, nth):
                break
        assert nth > (2 if first else 1)


@pytest.mark.parametrize(
    ("first", "second", "former"),
    [
        ({}, {"x": "vanished"}, None),
        ({"x": "vanished"}, {"y": "denied"}, None),
        ({}, {"x": "vanished"}, {"y": "denied"}),
        ({"x": "vanished"}, {"x": "vanished"}, {"x": "vanished"}),
        ({"y": "denied"}, {}, {"x": "vanished"}),
    ],
)
def test_what_was_seen_before_a_pause_decides_nothing_after_it(
    tmp_path: Path, first: Outcome, second: Outcome, former: Outcome | None
) -> None:
    """At every call of the first, the second decides and folds; a hand may have deleted the features before that."""
    for nth in itertools.count(1):
        output, manifest = _new_output(str(tmp_path / str(nth)))
        if former is not None:
            _tenure(output, former)
            output.delete(table_file("features", manifest))
        trapped = TrapFolder(output, nth, ANY_CALL, partial(_tenure, output, second, folds=True))
        with suppress(AppError):  # it may end with an error, as what it works on is gone
            _tenure(trapped, first, folds=True)
        tables = _rows(output)
        assert _is(tables, first) or _is(tables, second), nth
        _tenure(output, {"x": "crashed", "y": "crashed"}, folds=True)
        assert _rows(output) == tables, nth
        check_log(output)
        assert manifest_ids(output) == []
        assert len(KnownPictures(output)) == 2
        if trapped.left > 0:
            break
    assert nth > 30


@pytest.mark.parametrize("when", ["paused before", "paused after", "delivered late"])
def test_two_attempts_never_mix_on_s3(bucket: Bucket, when: When) -> None:
    """The pair that tells most, both ways."""
    for number, (first, second) in enumerate(itertools.permutations(({"x": "vanished"}, {"y": "denied"}))):
        for nth in itertools.count(1):
            if not _meet(bucket.uri(f"{number} {nth}"), first, second, when, nth):
                break
        assert nth == 6


def test_a_killed_attempt_never_mixes_with_the_next_on_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of outcomes, at every write of the first."""
    with new_bucket_in_process(monkeypatch) as bucket:
        for number, (first, second) in enumerate(itertools.product(_FATES, _FATES)):
            for nth in itertools.count(1):
                if not _meet(bucket.uri(f"{number} {nth}"), first, second, "killed before", nth):
                    break
            assert nth > 2


@pytest.fixture
def decided(tmp_path: Path) -> tuple[Folder, str]:
    """An output with a manifest of x, which is rejected, and y."""
    output, manifest = _new_output(str(tmp_path / "out"))
    _tenure(output, {"x": "vanished"})
    return output, manifest


def test_what_was_taken_out_of_quarantine_stays_out(decided: tuple[Folder, str]) -> None:
    """By a retry: neither a start nor another attempt brings it back."""
    output, manifest = decided
    name = table_file(QUARANTINE_TABLE, manifest)
    data, tag = output.read_tagged(name)
    output.replace(name, as_parquet(QUARANTINE.empty_table(), footer_of(data)), tag)
    _tenure(output, {})
    complete_manifest(output, manifest)
    assert _rows(output)["quarantine"] == {}


def test_features_that_are_deleted_by_hand_are_decided_again(decided: tuple[Folder, str]) -> None:
    """What the former decision put into quarantine goes with it, also where the next one rejects something else."""
    output, manifest = decided
    for outcome in ({"y": "denied"}, {}):
        output.delete(table_file("features", manifest))
        _tenure(output, outcome)
        assert _is(_rows(output), outcome)


@pytest.mark.parametrize("damaged", [b"", b"no Parquet", as_parquet(QUARANTINE.empty_table())[:-9] + b"\xff" * 9])
def test_damaged_features_are_named(decided: tuple[Folder, str], damaged: bytes) -> None:
    """A start reads the features files in the log; deleting one that it cannot read helps."""
    output, manifest = decided
    name = table_file("features", manifest)
    _, tag = output.read_tagged(name)
    output.replace(name, damaged, tag)
    with pytest.raises(OutputError, match=f"{manifest}.parquet cannot be read: .* restore it from a copy"):
        recover(LooseTenure(output))
    output.delete(name)
    _tenure(output, {"y": "denied"})
    assert _is(_rows(output), {"y": "denied"})


def test_what_an_attempt_of_the_release_before_has_left_goes(tmp_path: Path) -> None:
    """It wrote the quarantine file first, and was killed; or it finished, and its rows stay as they are."""
    output, manifest = _new_output(str(tmp_path / "out"))
    left = as_parquet(quarantine_rows(result_of(manifest, named("x"), {"x": "vanished"})))
    output.create(table_file(QUARANTINE_TABLE, manifest), left)
    _tenure(output, {})
    assert _is(_rows(output), {})
    older = append_manifest(output, named("z"), NOW, "older")
    features = Tables(output)
    assert features.commit(older, result_of(older, named("z"), {}))
    output.create(table_file(QUARANTINE_TABLE, older), left)
    _tenure(output, {})
    assert _rows(output)["quarantine"] == {"x": "vanished"}


def test_a_commit_of_a_withdrawn_manifest_comes_too_late(tmp_path: Path) -> None:
    """Its author was paused; its pictures are in a request, and no hand misses the manifest in the log."""
    output, manifest = _new_output(str(tmp_path / "out"))
    again = append_manifest(output, named("yz"), NOW)
    recover(LooseTenure(output))
    assert read_decision(output, again).withdrawn
    assert manifest_ids(output) == [manifest]
    assert not Tables(output).commit(again, result_of(again, named("yz"), {}))
    _tenure(output, {})
    check_log(output)
    assert len(request_ids(output)) == 1
    tenure = LooseTenure(output)
    assert Inbox(ManifestLog(tenure, recover(tenure))).take_in(10) == 1
    _tenure(output, {})
    assert {name for table in _rows(output).values() for name in table} == {*"xyz"}


def test_a_withdrawal_that_was_killed_is_finished(tmp_path: Path) -> None:
    """Its pictures would be known, and in no table."""
    output, _ = _new_output(str(tmp_path / "out"))
    again = append_manifest(output, named("yz"), NOW)
    with pytest.raises(Killed):
        recover(LooseTenure(TrapFolder(output, 3, "killed before")))
    assert manifest_name(again) in [*output.names("_manifests")]
    assert read_decision(output, again).withdrawn
    known = recover(LooseTenure(output))
    assert [name_of(picture.path) for picture in known.unknown(named("xyz"))] == ["z"]


def test_what_a_former_holder_decides_late_is_completed_before_it_leaves_the_log(tmp_path: Path) -> None:
    """Nobody would complete it later: it is no micro-batch of the next epoch, and no start looks beyond the log."""
    output, manifest = _new_output(str(tmp_path / "out"))
    repeating = append_manifest(output, named("yz"), NOW)
    epochs = Epochs(LooseTenure(output), open_folder(str(tmp_path / "checkpoint")))
    epochs.open()
    with pytest.raises(Killed):
        _tenure_without_start(TrapFolder(output, 3, "killed before"), manifest, {"x": "vanished"})
    with pytest.raises(Killed):
        withdraw(TrapFolder(output, 2, "killed before"), repeating)
    assert {manifest, repeating} == {*manifest_ids(output)}
    epochs.turn()
    assert _is(_rows(output), {"x": "vanished"})
    assert manifest_ids(output) == []
    assert [name_of(one.path) for one in KnownPictures(output).unknown(named("xyz"))] == ["z"]


def test_a_withdrawal_loses_to_a_commit(decided: tuple[Folder, str]) -> None:
    """What has an outcome keeps it."""
    output, manifest = decided
    assert not withdraw(output, manifest)
    assert manifest_ids(output) == [manifest]
    assert _is(_rows(output), {"x": "vanished"})


def test_what_is_forgotten_leaves_the_footer_too(decided: tuple[Folder, str]) -> None:
    """Or the quarantine file could be made from it again."""
    output, manifest = decided
    forgotten = Denylist([Entry.of([named("x")[0].path], [], b"salt" * 8, NOW)])
    features = table_file("features", manifest)
    for table in ("features", "quarantine", "embeddings"):
        erase_in(output, table_file(table, manifest), forgotten)
    assert b"/in/x" not in output.read(features)
    assert len(read_decision(output, manifest).rejected) == 0
    _tenure(output, {})
    assert _rows(output) == {"features": {"y": None}, "quarantine": {}}


def test_what_is_forgotten_while_an_attempt_is_paused_stays_out(tmp_path: Path) -> None:
    """At every call of an attempt, the next holder completes and folds the manifest, and `forget` erases its rows."""
    forgotten = Denylist([Entry.of([named("x")[0].path], [], b"salt" * 8, NOW)])
    for nth in itertools.count(1):
        output, manifest = _new_output(str(tmp_path / str(nth)))
        _tenure(output, {})
        output.delete(table_file("features", manifest))

        def meanwhile(output: Folder = output) -> None:
            _tenure(output, {"y": "denied"}, folds=True)
            for table in ("features", "quarantine", "embeddings", "_known"):
                for name in output.names(table):
                    erase_in(output, name, forgotten)

        trapped = TrapFolder(output, nth, ANY_CALL, meanwhile)
        with suppress(AppError):
            _tenure(trapped, {"y": "denied"})
        if trapped.left > 0:
            break
        tables = ("features", "quarantine", "embeddings", STAGED_FOLDER)
        named_paths = (path for table in tables for path in _paths(output, table))
        assert "/in/x %.jpg" not in named_paths, nth
    assert nth > 20


def test_what_is_forgotten_and_written_late_goes_with_the_next_start(decided: tuple[Folder, str]) -> None:
    """A driver that was paused past its lease has not heard of it."""
    output, _ = decided
    salt = make_salt(output)
    add_entry(output, Entry.of([picture.path for picture in named("xy")], [], salt, NOW))
    denylist = Denylist.load(output)

    recover(LooseTenure(output, denylist=denylist))
    assert _rows(output) == {"features": {}, "quarantine": {}}
