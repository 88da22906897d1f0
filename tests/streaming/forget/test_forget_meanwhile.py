"""What exports and fits do while a `forget` runs."""

from __future__ import annotations

import itertools
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pytest

from conf.errors import ConflictError, LeaseLostError, TransientError, UnhealthyError
from streaming.__main__ import main as stream
from streaming.engine.opening import again_if_free
from streaming.export.snapshots import drop_incomplete, snapshots
from streaming.forget import run as forget
from streaming.forget.models import AffectedModel, erase_in_model
from streaming.forget.sweeper import erase
from streaming.lease.holder import LEASE, Holder, read_holder
from streaming.lease.lease import Lease
from streaming.operate.health import check_health
from streaming.output import lineage
from streaming.output.lineage import Derivative, Kind
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.forgetting import (
    LOCAL,
    REMOVED,
    asked_of,
    check_gone,
    forget_words,
    mentions,
    one_of_each,
    some,
    without,
)
from tests.support.streams import Place, run
from tests.support.tenures import write_lease


@pytest.mark.usefixtures("programs")
def test_an_export_that_begins_meanwhile_keeps_nothing(full: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the rows between the search of the table and its sweep, to a place that nobody knew of."""
    [gone] = some(full, "apple", 1)
    arguments = ["export", "--output", str(full.output), "--to", str(full.root / "late"), *LOCAL]
    exported: list[bool] = []

    def erase_after_export(*arguments_of_erase: Any) -> None:
        if not exported:
            exported.append(run("streaming", arguments).returncode == 0)
            assert mentions(full.root / "late", gone)
        erase(*arguments_of_erase)

    monkeypatch.setattr(forget, "erase", erase_after_export)
    assert stream(forget_words(full, gone)) == 0
    assert exported == [True]
    assert mentions(full.root, gone, but=full.source) == []
    [listed] = snapshots(open_folder(str(full.root / "late")))
    assert len(pads.dataset(full.root / "late" / listed.id, format="parquet").to_table()) == len(full.rows())


def test_a_model_that_is_made_meanwhile_is_found_too(full: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit adds to a model before that has lost the picture, and seals its own after the search for models."""
    [gone] = some(full, "apple", 1)
    base = Registry(open_folder(str(full.models))).current()
    grown = f"{base[:-8]}ffffffff"

    def seal_and_erase(models: Folder, affected: AffectedModel) -> None:
        if not (full.models / grown).exists():
            shutil.copytree(full.models / base, full.models / grown)
            manifest = full.models / grown / bundle.MANIFEST
            manifest.write_text(manifest.read_text().replace(base, grown))
        erase_in_model(models, affected)

    monkeypatch.setattr(forget, "erase_in_model", seal_and_erase)
    assert stream(forget_words(full, gone)) == 0
    assert mentions(full.root, gone, but=full.source) == []
    assert Registry(open_folder(str(full.models))).open(grown).manifest.forgotten == 1


def test_it_waits_for_an_export_that_is_under_way(
    full: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of leaving that place as it is, with the table swept already."""
    [gone] = some(full, "apple", 1)
    exports = open_folder(str(full.root / "exports"))
    lease = Lease(exports, timedelta(minutes=1)).__enter__()

    def look_and_end(to: Folder) -> tuple[Holder | None, str | None]:
        """The export ends when somebody has begun to wait for it."""
        found = read_holder(to)
        lease.__exit__(None, None, None)
        return found

    monkeypatch.setattr("streaming.forget.exports.read_holder", look_and_end)

    assert stream(forget_words(full, gone)) == 0
    assert f"{exports.root}: waiting until process" in capsys.readouterr().err
    assert mentions(full.root, gone, but=full.source) == []


def test_one_that_loses_the_right_to_an_export_is_not_finished(full: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export could have begun by then, with rows that were swept too late. The next run looks again."""
    [gone] = some(full, "apple", 1)

    def drop_and_lose(to: Folder, lease: Lease) -> None:
        drop_incomplete(to, lease)
        lease._lost = "another stream took it"
        to.delete(LEASE)

    with monkeypatch.context() as context:
        context.setattr(forget, "drop_incomplete", drop_and_lose)
        assert stream(forget_words(full, gone)) == 5
    assert not [*open_folder(str(full.output)).names("_forgotten/receipts")]
    assert stream(forget_words(full)) == 0
    assert mentions(full.root, gone, but=full.source) == []


def test_a_stream_that_died_is_not_taken_for_one_that_was_stopped(full: Place) -> None:
    """Monitors hear of it all the same, and the stream starts again if it was only cut off from the output."""
    [gone] = some(full, "apple", 1)
    output = open_folder(str(full.output))
    output.delete(LEASE)
    write_lease(output, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert stream(forget_words(full, gone)) == 0
    with pytest.raises(TransientError, match="is free again: process 1 on elsewhere"), again_if_free(output):
        raise LeaseLostError("another stream took it")
    with pytest.raises(UnhealthyError, match=r"the stream failed: process 1 on elsewhere .* died or could not reach"):
        check_health(output, datetime.now(UTC), timedelta(minutes=5))


def test_a_stream_whose_successor_was_stopped_as_asked_stays_down(full: Place) -> None:
    output = open_folder(str(full.output))
    output.delete(LEASE)
    with Lease(output, timedelta(minutes=1)):
        pass
    with pytest.raises(LeaseLostError), again_if_free(output):
        raise LeaseLostError("another stream took it")


def test_a_place_that_is_not_here_is_not_taken_for_one_without_the_pictures(
    full: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its disk is not mounted, or it is another machine's: there is no receipt before all have been looked into."""
    before, gone = full.rows(), one_of_each(full)

    def refused(words: list[str], *missing: str) -> None:
        capsys.readouterr()
        assert stream(words) == 5
        said = capsys.readouterr().err
        named = [name for name in ("csv", "exports") if f"{full.root}/{name} is not there, or empty" in said]
        assert named == [*missing]

    shutil.move(full.root / "csv", tmp_path)
    shutil.move(full.root / "exports", tmp_path)
    (full.root / "exports").mkdir()  # the mount point
    refused(forget_words(full, gone[0], "--dry-run"), "csv", "exports")
    refused(forget_words(full, *gone), "csv", "exports")
    assert full.rows() == without(before, gone)
    shutil.move(tmp_path / "csv", full.root)
    refused(forget_words(full), "exports")
    shutil.move(full.root / "csv", tmp_path)  # the machine with the exports has it not, and need not
    (full.root / "exports").rmdir()
    shutil.move(tmp_path / "exports", full.root)
    [receipt] = asked_of(forget_words(full), capsys)
    shutil.move(tmp_path / "csv", full.root)
    assert receipt["removed"] == REMOVED
    check_gone(full, gone, before)


@pytest.mark.parametrize("kind", ["models", "export"])
def test_a_place_that_cannot_be_looked_into_keeps_no_other_from_being_swept(
    full: Place, capsys: pytest.CaptureFixture[str], kind: Kind
) -> None:
    """A registry or an export of former years that was changed; the error names the record that may be deleted."""
    before, gone = full.rows(), one_of_each(full)
    old = Derivative(kind, str(full.root / "old"))
    version = Registry(open_folder(str(full.models))).current()
    changed = f"{version}/{bundle.MANIFEST}" if kind == "models" else "LATEST"
    open_folder(old.uri).create(changed, b"{}")
    output = open_folder(str(full.output))
    lineage.record(output, old)
    assert stream(forget_words(full, *gone, "--log-format", "text")) == 5
    said = capsys.readouterr().err
    assert f"{old.uri} cannot be looked into: {old.uri}/{changed.partition('/')[0]}" in said
    record = said.rstrip().rpartition("delete ")[2]
    assert record == lineage.path_of(output, old)
    check_gone(full, gone, before)
    Path(record).unlink()
    [receipt] = asked_of(forget_words(full), capsys)
    assert receipt["removed"] == REMOVED


def test_saved_features_that_a_former_run_took_for_deleted_are_swept(
    full: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was on another machine, where what they lay in is there, too; an export is missing, so there is no receipt."""
    before, gone = full.rows(), one_of_each(full)
    for name in ("saved", "csv"):
        shutil.move(full.root / name, tmp_path)
    assert stream(forget_words(full, *gone)) == 5
    for name in ("saved", "csv"):
        shutil.move(tmp_path / name, full.root)
    [receipt] = asked_of(forget_words(full), capsys)
    assert receipt["removed"] == REMOVED
    check_gone(full, gone, before)


def test_another_forget_that_works_on_the_same_model_is_given_way(full: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of another output which shares the registry."""
    [gone] = some(full, "apple", 1)
    conflicts = [ConflictError("somebody else has changed it"), ConflictError("and again")]

    def meet(models: Folder, affected: AffectedModel) -> None:
        if conflicts:
            raise conflicts.pop()
        erase_in_model(models, affected)

    monkeypatch.setattr(forget, "erase_in_model", meet)
    monkeypatch.setattr(forget, "pauses", lambda first: itertools.repeat(0.0))
    assert stream(forget_words(full, gone)) == 0
    assert not conflicts
    assert mentions(full.root, gone, but=full.source) == []


def test_what_lies_beside_the_files_is_no_hindrance_and_what_a_killed_fit_left_goes(full: Place) -> None:
    """What file managers leave in an export; the lease that tells of the picture by which the stream ended."""
    [gone] = some(full, "apple", 1)
    for name in (".DS_Store", "._part-0.parquet", "Thumbs.db"):
        (full.root / "exports" / snapshots(open_folder(str(full.root / "exports")))[0].id / name).write_bytes(b"?")
    left = full.models / "_tmp" / "killed"
    left.parent.mkdir(exist_ok=True)
    left.write_text(gone)
    os.utime(left, (0, 0))
    failed = f"{gone}: cannot be read: EIO: Input/output error; no other picture can be read, either"
    write_lease(open_folder(str(full.output)), released=True, failure=failed)
    assert stream(forget_words(full, gone)) == 0
    assert not left.exists()
    [copied] = full.root.rglob("._part-0.parquet")
    copied.unlink()
    assert mentions(full.root, gone, but=full.source) == []
    holder, _ = read_holder(open_folder(str(full.output)))
    assert holder
    assert holder.failure == "it told of a picture that was forgotten"


def test_a_place_that_was_deleted_is_one_whose_record_is_deleted(
    full: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names that file; saved features may just be deleted, as long as what they lay in is there."""
    [gone] = some(full, "apple", 1)
    shutil.rmtree(full.root / "csv")
    shutil.rmtree(full.root / "saved")
    assert stream(forget_words(full, gone, "--log-format", "text")) == 5
    record = capsys.readouterr().err.rstrip().rpartition("delete ")[2]
    Path(record).unlink()
    assert stream(forget_words(full)) == 0
    assert mentions(full.root, gone, but=full.source) == []
