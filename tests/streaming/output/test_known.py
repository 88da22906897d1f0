"""The record of known pictures: a holder that was paused in the middle of a fold adds nothing to it that may not be."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from conf.errors import AppError, LeaseLostError, OutputError
from streaming.lease.denylist import Denylist, Entry, new_salt
from streaming.lease.holder import LEASE
from streaming.lease.lease import Lease
from streaming.lease.tenure import Tenure
from streaming.output import known
from streaming.output.embeddings import publish_staged
from streaming.output.known import KNOWN_FOLDER, KnownPictures, check_log, fold, refuse_announced
from streaming.output.lineage import derivatives
from streaming.output.manifests import append_manifest, manifest_ids, manifest_name, prepare_log, read_manifest
from streaming.output.recovery import finish_manifests, recover
from streaming.output.requests import all_ids
from streaming.output.rows import erase_in, forgotten_paths
from streaming.output.tables import Tables, unfinished
from streaming.storage.folder import IDENTITY_BYTES, Folder, StoredPicture
from streaming.storage.locations import open_folder
from streaming.storage.parquet import as_parquet, read_footer
from tests.support.outcomes import NOW, named, result_of
from tests.support.tenures import LooseTenure, LoseableLease
from tests.support.trap import ANY_CALL, WHENS, Killed, TrapFolder, When

_SALT = new_salt()
_FORGOTTEN = Denylist([Entry.of([named("x")[0].path], [], _SALT, NOW)])


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power cut is tried here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def _new_output(root: str) -> Folder:
    """One with w in its record, and x and y in two finished manifests in the log."""
    output = open_folder(root)
    prepare_log(output)
    for name in "wxy":
        manifest = append_manifest(output, named(name), NOW)
        Tables(output).commit(manifest, result_of(manifest, named(name), {}))
        if name == "w":
            known.fold(LooseTenure(output), [manifest])
    return output


def _forget(output: Folder) -> None:
    """What `forget` does in log and record once it has taken the lease."""
    refuse_announced(output)
    for folder in ("_manifests", KNOWN_FOLDER):
        for name in output.names(folder):
            if name.endswith((".json", ".parquet")):
                erase_in(output, name, _FORGOTTEN)


def _next_tenure(output: Folder) -> KnownPictures:
    tenure = LooseTenure(output, denylist=_FORGOTTEN)
    pictures = recover(tenure)
    known.fold(tenure, finish_manifests(output, _FORGOTTEN))
    return pictures


@pytest.mark.parametrize("when", [*WHENS, ANY_CALL])
def test_a_fold_that_comes_late_brings_back_nothing_that_was_forgotten(tmp_path: Path, when: When) -> None:
    """Whoever folds loses the lease at any call, and `forget` works to its end; all other pictures stay known once."""
    for nth in itertools.count(1):
        output = _new_output(str(tmp_path / str(nth)))
        lease = LoseableLease()

        def meanwhile(output: Folder = output, lease: LoseableLease = lease) -> None:
            lease.lost = True
            _forget(output)

        trapped = TrapFolder(output, nth, when, meanwhile)
        try:
            known.fold(LooseTenure(trapped, lease.check), manifest_ids(output))
        except Killed:
            _forget(output)
        except AppError:
            assert lease.lost
        if trapped.left > 0:
            break
        for _ in range(2):
            left = [forgotten_paths(name, output.read(name), _FORGOTTEN) for name in output.names(KNOWN_FOLDER)]
            assert [*itertools.chain(*left)] == [], nth
            assert _next_tenure(output).unknown(named("wy")) == []
        assert manifest_ids(output) == []
        assert len(KnownPictures(output)) == 2
        assert not any(known._ANNOUNCED in read_footer(output, name) for name in output.names(KNOWN_FOLDER))
    assert nth > 5


def test_a_fold_asks_the_store_whose_the_lease_is(tmp_path: Path) -> None:
    """Another may have taken it although it has not run out by our clock."""
    output = _new_output(str(tmp_path))
    log, record = manifest_ids(output), [*output.names(KNOWN_FOLDER)]
    with Tenure(output, timedelta(minutes=1)) as tenure:
        output.delete(LEASE)
        with Lease(output, timedelta(minutes=1)):
            with pytest.raises(LeaseLostError):
                known.fold(tenure, log)
            refuse_announced(output)
    assert (manifest_ids(output), [*output.names(KNOWN_FOLDER)]) == (log, record)


def test_a_start_misses_nothing_that_a_former_holder_folds_meanwhile(tmp_path: Path) -> None:
    """Whatever it has read by then: a picture that it missed would be found, and featurized, once more."""
    for nth in itertools.count(1):
        output = _new_output(str(tmp_path / str(nth)))
        fold = partial(known.fold, LooseTenure(output), manifest_ids(output))
        trapped = TrapFolder(output, nth, ANY_CALL, fold)
        assert KnownPictures(trapped).unknown(named("wxyz")) == named("z"), nth
        if trapped.left > 0:
            break
    assert nth > 5


def test_a_living_holder_folds_although_forget_refuses_what_it_has_announced(output: Folder) -> None:
    """`forget` cannot tell whose it is."""
    for name in "xy":
        append_manifest(output, named(name), NOW)
    trapped = TrapFolder(output, 1, "paused after", partial(_forget, output))
    known.fold(LooseTenure(trapped, denylist=_FORGOTTEN), manifest_ids(output))
    assert trapped.left < 0
    assert KnownPictures(output).unknown(named("xy")) == named("x")
    assert len([*output.names(KNOWN_FOLDER)]) == 1
    refuse_announced(output)
    assert KnownPictures(output).unknown(named("xy")) == named("x")


def test_the_record_is_read_in_little_more_memory_than_its_hashes_take(tmp_path: Path) -> None:
    """Files may repeat each other's pictures, and be empty; no Python object is made for a hash."""
    output, count = open_folder(str(tmp_path)), 100_000
    prepare_log(output)
    hashes = np.random.default_rng(0).integers(1, 256, (count, IDENTITY_BYTES), np.uint8)
    for name, rows in (("a", hashes[: count // 2 + 10]), ("b", hashes[count // 2 :]), ("c", hashes[:0])):
        column = pa.array([row.tobytes() for row in rows], pa.binary(IDENTITY_BYTES))
        output.create(f"{KNOWN_FOLDER}/{name}.parquet", as_parquet(pa.table({"hash": column})))
    tracemalloc.start()
    pictures = KnownPictures(output)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pictures) == count
    assert most < 4 * IDENTITY_BYTES * count


@pytest.mark.parametrize("year", [1, 999, 1969, 9999])
def test_a_picture_may_be_of_any_year(output: Folder, year: int) -> None:
    """Some programs write the first one, and some file systems keep it."""
    pictures = [StoredPicture("/in/a.jpg", 1, datetime(year, 1, 1, tzinfo=UTC))]
    manifest = append_manifest(output, pictures, NOW)
    assert f'"{year:04}-01-01T' in output.read(manifest_name(manifest)).decode()
    assert read_manifest(output, manifest) == pictures


def test_what_file_managers_leave_in_an_output_is_no_manifest(output: Folder) -> None:
    """Folded or not; a Parquet file of another program is told by its name."""
    prepare_log(output)
    tables = Tables(output)
    manifest = append_manifest(output, named("a"), NOW)
    tables.commit(manifest, result_of(manifest, named("a"), {}))
    for _ in range(2):
        for folder in (
            *("features", f"features/date={NOW:%Y-%m-%d}", "_embeddings", KNOWN_FOLDER),
            *("_manifests", "_requests", "_derivatives", "_forgotten/entries"),
        ):
            for name in (".DS_Store", "Thumbs.db", "_SUCCESS", "._a.parquet", f"._{manifest}.json"):
                output.delete(f"{folder}/{name}")
                output.create(f"{folder}/{name}", b"?")
        check_log(output)
        publish_staged(output)
        refuse_announced(output)
        assert len(KnownPictures(output)) == 1
        assert not unfinished(output)
        assert not all_ids(output)
        assert not derivatives(output)
        assert not Denylist.load(output)
        assert tables.latest_model() == "model"
        fold(LooseTenure(output), manifest_ids(output))
    output.create(f"features/date={NOW:%Y-%m-%d}/part-0.parquet", b"?")
    with pytest.raises(OutputError, match=r"part-0.parquet cannot be read: .*; a stream names its files otherwise"):
        check_log(output)
