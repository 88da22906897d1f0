"""The verb `models prune`: what nothing needs goes, whole or not at all, and what somebody needs stays."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from batch_fit.__main__ import main
from batch_fit.prune import prune
from conf.errors import ModelError, NoModelError, StorageError, TransientError
from conf.settings import ExportSettings, Settings
from streaming.export.run import export
from streaming.features.backbone import backbone_id
from streaming.output.lineage import Derivative, record
from streaming.registry.registry import CURRENT, Current, Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.buckets import Bucket
from tests.support.models import add_model, random_projection
from tests.support.small_table import commit
from tests.support.streams import begin
from tests.support.trap import ANY_CALL, Killed, TrapFolder, When

_OLD = datetime(2026, 1, 1, tzinfo=UTC)


def _fill(models: Folder, count: int, promote: Sequence[int] = ()) -> list[str]:
    """So many models, one a day, of which some were promoted in this order."""
    versions = [
        add_model(models, _OLD + timedelta(days=day), b"a backbone", random_projection(2, day)) for day in range(count)
    ]
    for place in promote:
        Registry(models).promote(versions[place])
    return versions


def _listed(models: Folder) -> list[str]:
    return [one.version for one in Registry(models).versions()]


def _folders(models: Folder) -> set[str]:
    return {name.split("/")[0] for name in models.names("") if not name.startswith("_")}


def test_the_latest_stay_with_the_current_one_and_the_one_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """History loses what is gone, so that a rollback works, once."""
    models = open_folder(str(tmp_path))
    versions = _fill(models, 7, promote=[0, 2, 4, 1, 3])
    asked = ["models", "prune", "--keep", "2", "--models", str(tmp_path)]
    assert main([*asked, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"would prune  3 of 7 models in {tmp_path}\n")
    assert f"\nkept         {versions[1]}  rollback goes to it\n" in said
    assert f"{versions[3]}  current\n" in said
    assert said.endswith(f"next         python -m batch_fit models prune --keep 2 --models {tmp_path}\n")
    assert _listed(models) == versions
    assert main([*asked, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["version"] for one in answer["pruned"]] == [versions[0], versions[2], versions[4]]
    assert {one["version"]: one["why"] for one in answer["kept"]} == {
        versions[1]: ["rollback goes to it"],
        versions[3]: ["current"],
        versions[5]: ["among the latest 2"],
        versions[6]: ["among the latest 2"],
    }
    assert _listed(models) == [versions[one] for one in (1, 3, 5, 6)]
    assert _folders(models) == {CURRENT, *_listed(models)}
    assert Registry(models).rollback() == versions[1]
    with pytest.raises(ModelError, match="no earlier model"):
        Registry(models).rollback()
    assert main(asked) == 0
    assert capsys.readouterr().out.startswith(f"pruned       1 of 4 models in {tmp_path}\n")


def test_models_in_use_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By rows of the output, by its latest export, and by features that a fit has saved, which forget has to find."""
    models, output = open_folder(str(tmp_path / "models")), open_folder(str(tmp_path / "out"))
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "part-0.parquet").touch()
    with_saved = add_model(
        models, _OLD - timedelta(days=1), b"a backbone", random_projection(2, 9), saved_features=str(saved)
    )
    versions = _fill(models, 4, promote=[0])
    begin(output)
    commit(output, 0, ["/a.jpg", "/b.jpg"], model=versions[1], backbone=backbone_id(b"a backbone"))
    to = str(tmp_path / "exports")
    exporting = Settings(output=output.root, models=models.root, export=ExportSettings(to=to, model=versions[0]))
    export(exporting, lambda *_: nullcontext())
    Registry(models).promote(versions[3])
    Registry(models).promote(versions[2])
    Registry(models).promote(versions[3])
    asked = ["models", "prune", "--keep", "1", "--models", models.root, "--json"]
    assert main([*asked, "--output", output.root]) == 0
    kept = {one["version"]: one for one in json.loads(capsys.readouterr().out)["kept"]}
    assert kept.keys() == {with_saved, *versions}
    assert kept[versions[1]]["why"] == ["2 rows in the output"]
    assert (kept[versions[1]]["rows"], kept[versions[2]]["rows"]) == (2, 0)
    assert kept[versions[0]]["why"] == [f"the latest export in {to} is of it"]
    assert "delete these first" in kept[with_saved]["why"][0]
    (saved / "part-0.parquet").unlink()
    assert main(asked) == 0
    capsys.readouterr()
    assert _listed(models) == versions[2:]
    assert main(["models", "list", "--models", models.root, "--output", output.root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] == {versions[1]: 2}


def test_a_killed_prune_leaves_whole_models_and_files_that_are_none(tmp_path: Path) -> None:
    """At every write; the next one finishes it, and a rollback never meets what is gone."""
    for nth in itertools.count(1):
        models = open_folder(str(tmp_path / str(nth)))
        versions = _fill(models, 4, promote=[0, 1, 2, 3])
        trapped = TrapFolder(models, nth, "killed before")
        try:
            Registry(trapped).delete(versions[:2])
        except Killed:
            for version in _listed(models):
                Registry(models).open(version)
            assert _listed(models)[-2:] == versions[2:], nth
        pruned = prune(Settings(models=models.root), 1, dry_run=False)
        assert [one.version for one in pruned.kept] == versions[2:]
        assert _listed(models) == versions[2:]
        later = datetime.now(UTC) + timedelta(hours=25)  # after which marks of files that were given up go, too
        Registry(models).remove_incomplete(later)
        assert _folders(models) == {CURRENT, *versions[2:]}
        assert Registry(models).rollback() == versions[2]
        if trapped.left > 0:
            break
    assert nth > 6


@pytest.mark.parametrize("first", ["delete", "promote"])
def test_what_is_promoted_meanwhile_is_not_deleted(tmp_path: Path, first: str) -> None:
    """At every call of the one, the other works to its end: either is refused, and the current model is whole."""
    outcomes = set()
    for nth in itertools.count(1):
        models = open_folder(str(tmp_path / str(nth)))
        versions = _fill(models, 4, promote=[0, 1, 2, 3])
        done = set[str]()

        def act(what: str, models: Folder, doomed: Sequence[str] = versions[:2], done: set[str] = done) -> None:
            with suppress(ModelError):
                if what == "delete":
                    Registry(models).delete(doomed)
                else:
                    Registry(models).promote(doomed[1])
                done.add(what)

        [second] = {"delete", "promote"} - {first}
        trapped = TrapFolder(models, nth, ANY_CALL, partial(act, second, models))
        act(first, trapped)
        if trapped.left > 0:
            break
        outcomes.add(frozenset(done))
        current = Registry(models).current()
        Registry(models).open(current)
        assert current == (versions[1] if "promote" in done else versions[3])
        assert (versions[1] in _listed(models)) == ("promote" in done), nth
    assert {frozenset({"delete"}), frozenset({"promote"})} <= outcomes
    assert frozenset({"delete", "promote"}) not in outcomes


@pytest.mark.parametrize("promoted", [[], [0]], ids=["the first promotion", "a later one"])
@pytest.mark.parametrize("first", ["delete", "promote"])
@pytest.mark.parametrize("when", ["killed before", "killed after"])
def test_no_kill_leaves_a_current_model_that_is_not_there(
    tmp_path: Path, first: str, promoted: Sequence[int], when: When
) -> None:
    """At every call of the one, the other works to its end, and the one is killed at every write after that."""
    [second] = {"delete", "promote"} - {first}
    lost = set()
    for nth in itertools.count(1):
        left = 0
        for write in itertools.count(1):
            models = open_folder(str(tmp_path / f"{nth}-{write}"))
            versions = _fill(models, 3, promote=promoted)

            def act(what: str, models: Folder, doomed: str = versions[1]) -> None:
                with suppress(ModelError, Killed):
                    if what == "delete":
                        Registry(models).delete([doomed])
                    else:
                        Registry(models).promote(doomed)

            paused = TrapFolder(models, nth, ANY_CALL, partial(act, second, models))
            killed = TrapFolder(paused, write, when)
            act(first, killed)
            named = Registry(models).current_or_none()
            told = prune(Settings(models=models.root), 1, dry_run=True)
            pruned = prune(Settings(models=models.root), 1, dry_run=False)
            assert (told.lost, told.current) == (pruned.lost, pruned.current)
            assert pruned.lost == (None if named == pruned.current else named)
            lost.add(pruned.lost is not None)
            assert Registry(models).current_or_none() == pruned.current
            if pruned.current:
                Registry(models).open(pruned.current)
            assert pruned.current or not promoted, (nth, write)
            Registry(models).promote(versions[2])
            left = paused.left
            if killed.left > 0:
                break
        if left > 0:
            break
    assert lost == {True, False}


@pytest.mark.parametrize("promoted", [[], [0]])
def test_a_promotion_that_cannot_be_taken_back_says_that_current_names_what_is_deleted(
    tmp_path: Path, promoted: Sequence[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """And a prune repairs that, and tells it."""

    def fail() -> None:
        raise StorageError("the disk is full")

    models = open_folder(str(tmp_path))
    versions = _fill(models, 2, promote=promoted)
    looked = TrapFolder(models, 1, "paused before", partial(Registry(models).delete, [versions[1]]))
    with pytest.raises(ModelError) as failed:
        Registry(TrapFolder(looked, 2, "paused before", fail)).promote(versions[1])
    assert "was deleted meanwhile, and CURRENT still names it (the disk is full); promote another" in str(failed.value)
    assert main(["models", "prune", "--keep", "1", "--models", models.root]) == 0
    left = versions[0] if promoted else "no model"
    said = f"repaired     CURRENT: {versions[1]} is not there; {left} is current in its place\n"
    assert capsys.readouterr().out.startswith(said)


def test_an_empty_registry_whose_current_model_was_deleted_is_repaired(tmp_path: Path) -> None:
    """By hand, with its folder; there is no other model."""
    models = open_folder(str(tmp_path))
    [version] = _fill(models, 1, promote=[0])
    models.delete_tree(version)
    for lost in (version, None):
        pruned = prune(Settings(models=models.root), 1, dry_run=False)
        assert (pruned.lost, pruned.current, [*pruned.kept]) == (lost, None, [])
    with pytest.raises(NoModelError):
        Registry(models).current()


def test_models_stay_whose_features_or_exports_cannot_be_looked_at(tmp_path: Path) -> None:
    """A disk that is not mounted has deleted nothing; a folder that is not where it was is deleted."""
    models, output = open_folder(str(tmp_path / "models")), open_folder(str(tmp_path / "out"))
    disk = tmp_path / "disk"
    unmounted, deleted = (
        add_model(models, _OLD - timedelta(days=day), b"a backbone", random_projection(2, 9), saved_features=str(place))
        for day, place in ((2, disk / "saved"), (1, tmp_path / "saved"))
    )
    [latest] = _fill(models, 1, promote=[0])
    pruned = prune(Settings(models=models.root), 1, dry_run=True)
    assert [one.version for one in pruned.pruned] == [deleted]
    assert {one.version: [*one.why] for one in pruned.kept} == {
        unmounted: [
            f"its features in {disk / 'saved'} cannot be looked at: {disk} is not there, or empty; is it mounted?"
        ],
        latest: ["current", "the latest"],
    }
    begin(output)
    record(output, Derivative("export", str(disk / "exports")))
    disk.mkdir()  # the mount point
    pruned = prune(Settings(models=models.root, output=output.root), 1, dry_run=False)
    assert [*pruned.pruned] == []
    assert all("which may be of it, cannot be looked at" in " ".join(one.why) for one in pruned.kept)
    [export] = (tmp_path / "out" / "_derivatives").iterdir()
    assert f"delete {export} if it was deleted, or never made" in " ".join(pruned.kept[0].why)
    export.unlink()
    pruned = prune(Settings(models=models.root, output=output.root), 1, dry_run=True)
    assert [one.version for one in pruned.pruned] == [deleted]
    (disk / "others").touch()
    pruned = prune(Settings(models=models.root, output=output.root), 1, dry_run=True)
    assert [one.version for one in pruned.pruned] == [unmounted, deleted]


def test_a_prune_waits_for_a_store_that_is_gone_and_a_rollback_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose answer may be lost: a second one would go back further."""
    models = open_folder(str(tmp_path))
    versions = _fill(models, 4, promote=[0, 1, 2, 3])
    monkeypatch.setattr("conf.cli.pauses", lambda: iter([0.0]))
    state, outage = Registry._state, [TransientError("the store is gone")] * 2

    def after_outage(registry: Registry) -> tuple[Current | None, str | None]:
        if outage:
            raise outage.pop()
        return state(registry)

    monkeypatch.setattr(Registry, "_state", after_outage)
    assert main(["models", "rollback", "--models", str(tmp_path)]) == 6
    assert main(["models", "prune", "--keep", "1", "--models", str(tmp_path)]) == 0
    assert _listed(models) == versions[2:]


def test_a_prune_of_a_wrong_place_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As is one that does not say how many stay, and another action with its flags."""
    (tmp_path / "holiday.jpg").touch()
    place = ["--models", str(tmp_path), "--log-format", "text"]
    for words, code, said in (
        (["prune", "--keep", "3"], 4, "is not a registry, and holds holiday.jpg"),
        (["prune"], 2, "models prune: say with --keep N how many of the latest models stay"),
        (["prune", "--keep", "0"], 2, "'0' is not a number from 1 on"),
        (["prune", "20260101T000000Z-00000000", "--keep", "3"], 2, "takes no VERSION"),
        (["list", "--keep", "3"], 2, "models list: takes neither --keep nor --dry-run, which are for prune"),
        (["rollback", "--dry-run"], 2, "models rollback: takes neither --keep nor --dry-run"),
    ):
        assert main(["models", *words, *place]) == code
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_models_on_s3_are_pruned(bucket: Bucket) -> None:
    models = open_folder(bucket.uri("models"))
    versions = _fill(models, 3, promote=[2])
    pruned = prune(Settings(models=bucket.uri("models")), 1, dry_run=False)
    assert [one.version for one in pruned.pruned] == versions[:2]
    assert {key.split("/")[1] for key in bucket.keys("models")} == {CURRENT, versions[2]}


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_a_bucket_of_saved_features_that_is_gone_keeps_its_model_and_no_other(bucket: Bucket) -> None:
    models = open_folder(bucket.uri("models"))
    gone = "s3://gone-with-the-features/saved"
    kept = add_model(models, _OLD - timedelta(days=1), b"a backbone", random_projection(2, 9), saved_features=gone)
    versions = _fill(models, 2, promote=[1])
    pruned = prune(Settings(models=bucket.uri("models")), 1, dry_run=False)
    assert [one.version for one in pruned.pruned] == versions[:1]
    assert [one.version for one in pruned.kept] == [kept, versions[1]]
    assert pruned.kept[0].why[0].startswith(f"its features in {gone} cannot be looked at: ")
    assert "gone-with-the-features" in pruned.kept[0].why[0].partition(": ")[2]
