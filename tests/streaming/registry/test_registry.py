"""The registry: a model is sealed whole, or given up; a fit and whoever deletes its files never do both."""

from __future__ import annotations

import itertools
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conf.errors import AppError, BundleError
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.models import promote_model
from tests.support.trap import ANY_CALL, TrapFolder

_NOW = datetime.now(UTC)
_VERSION = f"{_NOW - timedelta(hours=2):%Y%m%dT%H%M%SZ}-00000000"


def _new_registry(root: Path) -> Folder:
    """A registry with a model, and the files of another whose fit has not sealed it for two hours."""
    promote_model(root, b"a backbone", k=4, seed=0)
    models = open_folder(str(root))
    for name in (bundle.BACKBONE, bundle.PROJECTION):
        models.create(f"{_VERSION}/{name}", b"old")
    return models


def _seal(models: Folder) -> None:
    """The end of a fit."""
    base = bundle.read_bundle_manifest(models, Registry(models).current())
    models.create(f"{_VERSION}/{bundle.REPORT}", b"a report")
    files = bundle.hash_files(models, _VERSION)
    bundle.seal(models, _VERSION, base.model_copy(update={"version": _VERSION, "files": files}))


def _remove(models: Folder) -> None:
    Registry(models).remove_incomplete(_NOW)


@pytest.mark.parametrize("first", ["seal", "remove"])
def test_a_fit_that_was_paused_seals_no_model_whose_files_are_deleted(tmp_path: Path, first: str) -> None:
    """At every call of the one, the other works to its end; what is listed then is whole, and else nothing is left."""
    steps = {"seal": _seal, "remove": _remove}
    [second] = steps.keys() - {first}
    seen = set()
    for nth in itertools.count(1):
        models = _new_registry(tmp_path / str(nth))

        def meanwhile(models: Folder = models) -> None:
            with suppress(AppError):
                steps[second](models)

        trapped = TrapFolder(models, nth, ANY_CALL, meanwhile)
        with suppress(AppError):
            steps[first](trapped)
        if trapped.left > 0:
            break
        listed = [one.version for one in Registry(models).versions()]
        sealed = _VERSION in listed
        seen.add(sealed)
        assert len(listed) == 1 + sealed, nth
        if sealed:
            assert Registry(models).open(_VERSION).file(bundle.REPORT) == b"a report"
            continue
        with pytest.raises(BundleError, match="given up"):
            Registry(models).promote(_VERSION)
        _remove(models)
        assert [*models.names(_VERSION)] == [f"{_VERSION}/{bundle.MANIFEST}"]
    assert seen == ({False} if first == "seal" else {True, False})  # its seal is the last call of a fit


def test_a_model_without_its_files_is_not_sealed(tmp_path: Path) -> None:
    """Its fit was paused for more than a day: the mark is gone, too."""
    models = _new_registry(tmp_path)
    for later in (timedelta(0), timedelta(hours=25)):
        Registry(models).remove_incomplete(_NOW + later)
    assert [*models.names(_VERSION)] == []
    with pytest.raises(BundleError, match="given up, and its files deleted, as it was not finished in time; fit again"):
        _seal(models)
