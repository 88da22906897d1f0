"""What exports and fits do while a `forget` runs."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import Any

import pyarrow.dataset as pads
import pytest

from streaming.__main__ import main as stream
from streaming.export.snapshots import drop_incomplete, snapshots
from streaming.forget import run as forget
from streaming.forget.models import AffectedModel, erase_in_model
from streaming.forget.sweeper import erase
from streaming.lease.lease import LEASE, Holder, Lease, read_holder
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.forgetting import LOCAL, forget_words, mentions, some
from tests.support.streams import Place, run


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
