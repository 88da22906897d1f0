"""The registry: a model is sealed whole, or given up; a fit and whoever deletes its files never do both."""

from __future__ import annotations

import itertools
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from batch_fit.sample import read_identities, write_identities
from conf.errors import AppError, BundleError, ConflictError, ModelError
from streaming.forget.models import erase_in_model, find_models
from streaming.lease.denylist import NOTHING
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder, identity_of
from streaming.storage.locations import open_folder
from tests.support.models import add_model, promote_model, random_projection
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


def test_a_rollback_passes_over_models_that_are_not_there(tmp_path: Path) -> None:
    """Deleted by hand, or given up, as the files of a deletion that was killed are."""
    models = open_folder(str(tmp_path))
    versions = [promote_model(tmp_path, b"a backbone", k=4, seed=seed) for seed in range(4)]
    models.delete_tree(versions[2])
    models.delete(f"{versions[1]}/{bundle.MANIFEST}")
    bundle.give_up(models, versions[1], _NOW)
    assert Registry(models).rollback() == versions[0]
    assert Registry(models).current() == versions[0]
    with pytest.raises(ModelError, match="no earlier model to go back to"):
        Registry(models).rollback()


def test_a_model_is_promoted_over_the_one_it_was_compared_with_and_over_no_other(tmp_path: Path) -> None:
    models = open_folder(str(tmp_path))
    registry = Registry(models)
    first, second, third = (add_model(models, _NOW, b"a backbone", random_projection(4, seed)) for seed in range(3))
    assert not registry.promote_over(first, second)
    assert registry.current_or_none() is None
    assert registry.promote_over(first, None)
    assert not registry.promote_over(second, None)
    assert registry.current() == first
    assert registry.promote_over(second, first)
    assert registry.current() == second
    trap = TrapFolder(models, 1, "paused before", lambda: registry.promote(third))
    assert not Registry(trap).promote_over(first, second)
    assert trap.left == 0
    assert registry.current() == third


def test_two_who_forget_in_one_model_bring_back_nothing(tmp_path: Path) -> None:
    """Both belong to outputs of one registry; at every call of the one, the other works to its end."""
    for nth in itertools.count(1):
        version = promote_model(tmp_path / str(nth), b"a backbone", k=4, seed=0)
        models = open_folder(str(tmp_path / str(nth)))
        models.create(f"{version}/{bundle.IDENTITIES}", write_identities({*map(identity_of, "xyz")}))
        trapped = TrapFolder(models, nth, ANY_CALL, partial(_forget, models, "x"))
        with suppress(ConflictError):  # in the middle of it; the next run finishes it
            _forget(trapped, "y")
        _forget(models, "y")
        if trapped.left > 0:
            break
        assert read_identities(Registry(models).open(version)) == {identity_of("z")}, nth
    assert nth > 5


def _forget(models: Folder, path: str) -> None:
    while affected := [*find_models(models, NOTHING, lambda identity: identity == identity_of(path))]:
        for one in affected:
            erase_in_model(models, one)


def test_what_was_read_ahead_is_given_once_and_only_if_it_is_asked_for(tmp_path: Path) -> None:
    """A model that was promoted meanwhile is read anew, as is one that could not be read."""
    first = promote_model(tmp_path, b"a backbone", k=4, seed=0)
    models = open_folder(str(tmp_path))
    registry = Registry(models)
    registry.read_ahead()
    ahead = registry.open(first)
    assert ahead.version == first
    assert registry.open(first) is not ahead
    registry.read_ahead()
    second = promote_model(tmp_path, b"another backbone", k=4, seed=1)
    assert registry.open(second).file(bundle.BACKBONE) == b"another backbone"
    (tmp_path / second / bundle.PROJECTION).unlink()
    registry.read_ahead()
    with pytest.raises(BundleError, match=f"{bundle.PROJECTION} is missing"):
        registry.open(second)
