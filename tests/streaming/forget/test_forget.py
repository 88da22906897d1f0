"""Forgetting: pictures leave every place that the project put them, for good, and nobody else does."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
import unicodedata
from collections.abc import Callable, Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from batch_fit.held_back import HeldBack
from batch_fit.sample import read_identities, write_identities
from conf.loading import load_settings
from streaming.__main__ import main as stream
from streaming.export.snapshots import drop_incomplete, latest, read_snapshot, snapshots
from streaming.features.schema import FEATURE_COUNT
from streaming.forget import run as forget
from streaming.forget import sweeper
from streaming.forget.by_spark import visit_by_spark
from streaming.forget.files import File, Found
from streaming.forget.models import AffectedModel, erase_in_model
from streaming.forget.places import ErasurePlaces
from streaming.forget.receipts import finish
from streaming.forget.sweep import erase
from streaming.lease.lease import LEASE, Holder, Lease, read_holder
from streaming.output import requests
from streaming.output.decision import complete_all
from streaming.output.known import fold
from streaming.output.lineage import Derivative, record
from streaming.output.manifests import append_manifest, manifest_ids, read_manifest
from streaming.output.tables import finished
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder, StoredPicture, identity_of
from streaming.storage.locations import open_folder
from tests.support.buckets import Bucket
from tests.support.models import promote_model
from tests.support.small_table import DAY, commit, reject
from tests.support.streams import Place, begin, replay, run, start

Wait = Callable[..., None]
LOCAL = ("--master", "local[2,4]")


def _forget(place: Place, *more: str) -> list[str]:
    return ["forget", "--output", str(place.output), *LOCAL, *more]


def _asked(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The receipts of a run in this process."""
    capsys.readouterr()
    assert stream([*arguments, "--json"]) == 0
    receipts: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return receipts


def _mentions(folder: Path, path: str, but: Path | None = None) -> list[str]:
    """The files below a folder, but for another in it, that name a picture by its path or its identity."""
    found = []
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or (but and file.is_relative_to(but)):
            continue
        data = file.read_bytes()
        if file.suffix == ".parquet":
            cells = [cell for column in pq.read_table(file).columns for cell in column.to_pylist()]
            named = path in cells or identity_of(path) in cells
        else:
            data = gzip.decompress(data) if file.suffix == ".gz" else data
            named = path.encode() in data or json.dumps(path)[1:-1].encode() in data
        if named:
            found.append(str(file.relative_to(folder)))
    return found


def _tree(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest() for file in files}


def _record_fit(place: Place, paths: Sequence[str], saved: Path) -> str:
    """Give the current model the records of a fit on `paths`."""
    models = open_folder(str(place.models))
    version = Registry(models).current()
    models.create(f"{version}/{bundle.IDENTITIES}", write_identities({identity_of(path) for path in paths}))
    held_back = HeldBack.of({identity_of(path): np.ones(FEATURE_COUNT, np.float32) for path in paths[::2]})
    models.create(f"{version}/{bundle.HELD_BACK}", held_back.to_bytes())
    models.create(f"{version}/{bundle.REPORT}", f"<p><code>{paths[0]}</code></p>".encode())
    saved.mkdir()
    table = pa.table({"path": list(paths), "label": ["x"] * len(paths), "features": [[1.0]] * len(paths)})
    pq.write_table(table, saved / "part-0.parquet")
    (saved / ".part-0.parquet.crc").write_bytes(b"a checksum")
    file = place.models / version / bundle.MANIFEST
    manifest = bundle.BundleManifest.model_validate_json(file.read_bytes())
    changes = {"files": _hashes(place, version), "saved_features": str(saved)}
    file.write_text(manifest.model_copy(update=changes).model_dump_json())
    models.create(
        f"20260101T000000Z-00000000/{bundle.IDENTITIES}", models.read(f"{version}/{bundle.IDENTITIES}")
    )  # killed
    return version


def _hashes(place: Place, version: str) -> dict[str, str]:
    hashes = bundle.hash_files(open_folder(str(place.models)), version)
    return {name: digest for name, digest in hashes.items() if name != bundle.MANIFEST}


class _Written:
    """Does with an output what the stream does, without Spark."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._output = open_folder(str(place.output))
        begin(self._output)
        record(self._output, Derivative("models", str(place.models)))

    def replay_apples(self) -> None:
        files = sorted((self._place.source / "apple").iterdir())
        manifests = [self._take_in(files[start : start + 4], commit) for start in (0, 4, 8)]
        fold(self._output, manifests)

    def replay_pears(self) -> None:
        self._take_in(sorted((self._place.source / "pear é").iterdir()), reject)
        complete_all(self._output, finished(self._output))

    def replay_figs(self) -> None:
        files = sorted((self._place.source / "fig").iterdir())
        for some in (files[:5], files[5:]):
            self._take_in(some, commit)

    def _take_in(self, files: Sequence[Path], outcome: Callable[[Folder, int, Sequence[str]], str]) -> str:
        paths = [str(file) for file in files]
        manifest = append_manifest(self._output, [StoredPicture(path, 1, DAY) for path in paths], DAY)
        assert outcome(self._output, 0, paths) == manifest
        return manifest


class _Streamed:
    """Has the stream do it."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def replay_apples(self) -> None:
        self._replay("--max-pictures", "4", "--epoch-manifests", "3")

    def replay_pears(self) -> None:
        self._replay()

    def replay_figs(self) -> None:
        self._replay("--max-pictures", "5")

    def _replay(self, *more: str) -> None:
        assert replay(self._place, "--log-folder", str(self._place.root.parent / "log"), *more) == 0


def _fill(place: Place, by: _Written | _Streamed, pictures: Sequence[Path], broken: Sequence[Path]) -> Place:
    """Rows in every kind of file: folded and not, in both tables, requested, fitted and saved; and a copy of it all."""
    place.put(*pictures[:12])
    by.replay_apples()
    place.put(*broken[:2], folder="pear é")
    by.replay_pears()
    exports = ["export", "--output", str(place.output), *LOCAL, "--log-folder", str(place.root.parent / "log")]
    assert stream([*exports, "--to", str(place.root / "exports")]) == 0
    place.put(*pictures[12:20], folder="fig")
    by.replay_figs()
    assert stream([*exports, "--to", str(place.root / "exports")]) == 0
    assert stream([*exports, "--to", str(place.root / "csv"), "--format", "csv"]) == 0
    requested = place.put(*pictures[20:23], folder="kiwi")
    requests.create_request(open_folder(str(place.output)), [StoredPicture(path, 1, DAY) for path in requested])
    _record_fit(place, sorted(place.counted()), place.root / "saved")
    shutil.copytree(place.root, place.root.with_name("copy"))
    return place


def _restored(place: Place) -> Place:
    """The same as it was filled, at the same place."""
    shutil.rmtree(place.root)
    shutil.copytree(place.root.with_name("copy"), place.root)
    return place


@pytest.fixture(scope="module")
def _written(tmp_path_factory: pytest.TempPathFactory, _samples: tuple[list[Path], list[Path]]) -> Place:
    place = Place(tmp_path_factory.mktemp("written") / "place")
    promote_model(place.models, b"a backbone", k=4, seed=0)
    return _fill(place, _Written(place), *_samples)


@pytest.fixture(scope="module")
def _streamed(tmp_path_factory: pytest.TempPathFactory, fitted: Path, _samples: tuple[list[Path], list[Path]]) -> Place:
    place = Place(tmp_path_factory.mktemp("streamed") / "place")
    place.source.mkdir(parents=True)
    shutil.copytree(fitted, place.models)
    return _fill(place, _Streamed(place), *_samples)


@pytest.fixture
def full(_written: Place) -> Place:
    """A place with rows in every kind of file, written as the stream writes them."""
    return _restored(_written)


@pytest.fixture
def streamed(_streamed: Place) -> Place:
    """The same, written by the stream itself, which can go on."""
    return _restored(_streamed)


def _some(place: Place, folder: str, count: int) -> list[str]:
    return [str(file) for file in sorted((place.source / folder).iterdir())[:count]]


def _one_of_each(place: Place) -> list[str]:
    counts = {"apple": 2, "pear é": 1, "fig": 1, "kiwi": 1}
    return [path for folder, count in counts.items() for path in _some(place, folder, count)]


_REMOVED = {
    "features": 3,
    "quarantine": 1,
    "the record of known pictures": 2,
    "manifests": 2,
    "requests": 1,
    "saved features": 4,
    "exports": 8,
}
"""What `_one_of_each` comes to; the pictures of the first export are in the second one, too."""


def _refit(place: Place) -> list[dict[str, object]]:
    version = Registry(open_folder(str(place.models))).current()
    return [{"models": str(place.models), "version": version, "pictures": 4}]


def _without(rows: pa.Table, gone: Sequence[str]) -> pa.Table:
    return rows.filter(pa.array([path not in gone for path in rows["path"].to_pylist()]))


def _check_gone(place: Place, gone: Sequence[str], before: pa.Table) -> None:
    """Nobody names them any more, nobody else is missing, and what was derived is whole."""
    named = {path: found for path in gone if (found := _mentions(place.root, path, but=place.source))}
    assert named == {}
    assert place.rows() == _without(before, gone)
    models = Registry(open_folder(str(place.models)))
    model = models.open(models.current())
    assert model.manifest.forgotten == 4
    left = read_identities(model)
    assert {*HeldBack.from_bytes(model.file(bundle.HELD_BACK)).identities} < left
    assert left == {identity_of(path) for path in place.counted()}
    exports = open_folder(str(place.root / "exports"))
    for listed in snapshots(exports):
        rows = pads.dataset(place.root / "exports" / listed.id, format="parquet").to_table()
        snapshot = read_snapshot(exports, listed.id)
        assert snapshot.rows == len(rows)
        assert {file.name: file.bytes for file in snapshot.files} == {
            file.name: (place.root / "exports" / listed.id / file.name).stat().st_size for file in snapshot.files
        }
    newest = latest(exports)
    assert newest
    assert newest.rows == len(place.rows())
    assert newest.record_sha256 == sha256(exports.read(newest.record)).hexdigest()
    assert len(pd.concat(map(pd.read_csv, (place.root / "csv").glob("2*/*/*.csv.gz")))) == len(place.rows())


def test_a_picture_is_gone_everywhere_and_for_good(
    streamed: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others keep their rows, nothing takes it in again, and asking twice changes nothing.

    They are told in a file of Windows, among others that nothing has; these are named, and only another spelling known.
    """
    before, gone, tree = streamed.rows(), _one_of_each(streamed), _tree(streamed.root)
    for path in gone:
        assert _mentions(streamed.output, path)
    stays = _some(streamed, "pear é", 2)[1]
    other = unicodedata.normalize("NFD", stays)
    wanted = tmp_path / "wanted.txt"
    wanted.write_bytes("\r\n".join([*gone, other, "/in/nobody's.jpg", ""]).encode("utf-16"))
    asked = _forget(streamed, "--from-file", str(wanted))
    [expected] = _asked([*asked, "--dry-run"], capsys)
    assert _tree(streamed.root) == tree
    [receipt] = _asked(asked, capsys)
    for answer in (expected, receipt):
        named = [(one["where"], one["asked"], one["nearest"]) for one in answer["unmatched"]]
        assert named == [("line 6", other, stays), ("line 7", "/in/nobody's.jpg", None)]
    written = (streamed.output / f"_forgotten/receipts/{receipt['id']}.json").read_text(encoding="utf-8")
    assert [one["where"] for one in json.loads(written)["unmatched"]] == ["line 6", "line 7"]
    assert "/in/" not in written
    _check_gone(streamed, gone, before)
    removed = _REMOVED | {"embeddings": _REMOVED["features"]}
    assert (expected["removed"], expected["refit"]) == (removed, _refit(streamed))
    assert (receipt["removed"], receipt["refit"]) == (removed, _refit(streamed))
    tree = _tree(streamed.root)
    [again] = _asked(asked, capsys)
    assert {**again, "finished_at": None} == {**receipt, "finished_at": None}
    assert {name for name, digest in _tree(streamed.root).items() if digest != tree.get(name)} - _LEASES == {
        f"out/_forgotten/receipts/{receipt['id']}.json"
    }
    assert stream(streamed.arguments("replay")) == 0
    there = [str(file) for file in streamed.source.rglob("*") if file.is_file()]
    assert streamed.counted() == dict.fromkeys([path for path in there if path not in gone], 1)
    reconciled = ["reconcile", "--input", str(streamed.source), "--output", str(streamed.output), *LOCAL, "--json"]
    capsys.readouterr()
    assert stream(reconciled) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["missed"], found["gone"]) == (0, 0)


_LEASES = {"exports/_lease", "csv/_lease"}


def test_a_prefix_is_gone_with_what_is_to_come(streamed: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Also from a model, which knows its pictures by hashes of whole paths only; people are told what to do."""
    gone = [str(file) for file in (streamed.source / "fig").iterdir()]
    others = _without(streamed.rows(), gone)
    (streamed.source / "figs").mkdir()
    assert stream(_forget(streamed, "--prefix", f"{streamed.source}/fig/")) == 0
    said = capsys.readouterr().out
    assert f"{len(gone):,} from features" in said
    assert (
        f"refit        {Registry(open_folder(str(streamed.models))).current()} in {streamed.models}: 8 of its" in said
    )
    assert streamed.rows() == others
    for path in gone:
        assert _mentions(streamed.root, path, but=streamed.source) == []
    shutil.copy(gone[0], streamed.source / "fig" / "new.jpg")
    shutil.copy(gone[0], streamed.source / "figs" / "new.jpg")
    assert stream(streamed.arguments("replay")) == 0
    assert str(streamed.source / "figs" / "new.jpg") in streamed.counted()
    assert not [path for path in streamed.counted() if path.startswith(f"{streamed.source}/fig/")]


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("when", "method", "pattern"),
    [
        ("after", "create", "_forgotten/entries/*"),
        ("before", "replace", "_snapshots/*"),
        ("before", "replace", "*/report.html"),
    ],
)
def test_a_killed_run_is_finished_by_the_next(
    when: str, method: str, pattern: str, full: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without being told the paths again, and with the counts of both."""
    before, gone = full.rows(), _one_of_each(full)
    killed = run("tests.support.killing", [when, method, pattern, "1", "streaming", *_forget(full, *gone)])
    assert killed.returncode == -9, killed.stdout
    [receipt] = _asked(_forget(full), capsys)
    _check_gone(full, gone, before)
    assert (receipt["removed"], receipt["refit"]) == (_REMOVED, _refit(full))
    assert _asked(_forget(full), capsys) == []


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("step", ["search", "one table file", "log", "receipt"])
def test_a_run_that_ends_anywhere_is_finished_by_the_next(
    step: str, full: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in this process, and what is asked for next comes after. Nobody knows the paths of the first by then."""
    before, gone, nobody = full.rows(), _one_of_each(full), str(full.source / "nobody's.jpg")

    def die(*arguments: Any) -> None:
        if step == "one table file":
            sweeper, files, *others = arguments
            erase(sweeper, files[:1], *others)
        if step == "receipt":
            context.setattr(arguments[0], "delete", die_at_once)
            finish(*arguments)
        raise _KilledError

    def die_at_once(name: str) -> None:
        raise _KilledError

    where = {
        "search": (forget, "find"),
        "one table file": (forget, "erase"),
        "log": (forget, "_erase_in_log"),
        "receipt": (forget, "finish"),
    }
    with monkeypatch.context() as context:
        context.setattr(*where[step], die)
        with pytest.raises(_KilledError):
            stream(_forget(full, *gone, nobody))
    first, second = _asked(_forget(full, str(full.source / "never seen.jpg")), capsys)
    _check_gone(full, gone, before)
    assert (first["removed"], first["refit"]) == (_REMOVED, _refit(full))
    assert [(one["where"], one["asked"]) for one in first["unmatched"]] == [(f"PATH {len(gone) + 1}", None)]
    assert (second["removed"], second["refit"]) == ({}, [])
    assert [one["asked"] for one in second["unmatched"]] == [str(full.source / "never seen.jpg")]


class _Clock:
    """Each look at it takes a second."""

    def __init__(self) -> None:
        self._now = 0

    def monotonic(self) -> int:
        self._now += 1
        return self._now


@pytest.mark.usefixtures("jvm")
def test_spark_finds_and_erases_the_same(
    full: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes over in the middle of a search; all files are the same to the byte, and so are answers and errors."""
    gone, searched = _one_of_each(full), ErasurePlaces.of(load_settings({"output": str(full.output)})).files()

    def erased() -> tuple[dict[str, Any], dict[str, str]]:
        salt = _restored(full).output / "_forgotten" / "salt"
        salt.parent.mkdir()
        salt.write_bytes(bytes(32))
        [receipt] = _asked(_forget(full, *gone), capsys)
        tree = {name: digest for name, digest in _tree(full.root).items() if "_forgotten/" not in name}
        return {**receipt, "asked_at": None, "finished_at": None}, {**tree, **dict.fromkeys(_LEASES, "")}

    here = erased()
    by_spark: list[int] = []

    def visit(spark: SparkSession, files: Sequence[File], *others: Any) -> list[Found]:
        by_spark.append(len(files))
        return visit_by_spark(spark, files, *others)

    with monkeypatch.context() as context:
        context.setattr(sweeper, "visit_by_spark", visit)
        context.setattr(sweeper, "time", _Clock())
        assert erased() == here
    assert by_spark[0] == len(searched) - 9
    assert len(by_spark) > 6
    [file, *_] = (full.output / "features").glob("*/2*.parquet")
    file.write_bytes(b"PAR1")
    said = []
    for seconds in (sweeper.SECONDS_HERE, 0):
        monkeypatch.setattr(sweeper, "SECONDS_HERE", seconds)
        assert stream(_forget(full, *gone, "--dry-run", "--log-format", "text")) == 5
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said[0] == said[1]
    assert f"{file} cannot be read: " in said[0]


@pytest.mark.usefixtures("programs")
def test_an_export_that_begins_meanwhile_keeps_nothing(full: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the rows between the search of the table and its sweep, to a place that nobody knew of."""
    [gone] = _some(full, "apple", 1)
    arguments = ["export", "--output", str(full.output), "--to", str(full.root / "late"), *LOCAL]
    exported: list[bool] = []

    def erase_after_export(*arguments_of_erase: Any) -> None:
        if not exported:
            exported.append(run("streaming", arguments).returncode == 0)
            assert _mentions(full.root / "late", gone)
        erase(*arguments_of_erase)

    monkeypatch.setattr(forget, "erase", erase_after_export)
    assert stream(_forget(full, gone)) == 0
    assert exported == [True]
    assert _mentions(full.root, gone, but=full.source) == []
    [listed] = snapshots(open_folder(str(full.root / "late")))
    assert len(pads.dataset(full.root / "late" / listed.id, format="parquet").to_table()) == len(full.rows())


def test_a_model_that_is_made_meanwhile_is_found_too(full: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit adds to a model before that has lost the picture, and seals its own after the search for models."""
    [gone] = _some(full, "apple", 1)
    base = Registry(open_folder(str(full.models))).current()
    grown = f"{base[:-8]}ffffffff"

    def seal_and_erase(models: Folder, affected: AffectedModel) -> None:
        if not (full.models / grown).exists():
            shutil.copytree(full.models / base, full.models / grown)
            manifest = full.models / grown / bundle.MANIFEST
            manifest.write_text(manifest.read_text().replace(base, grown))
        erase_in_model(models, affected)

    monkeypatch.setattr(forget, "erase_in_model", seal_and_erase)
    assert stream(_forget(full, gone)) == 0
    assert _mentions(full.root, gone, but=full.source) == []
    assert Registry(open_folder(str(full.models))).open(grown).manifest.forgotten == 1


def test_it_waits_for_an_export_that_is_under_way(
    full: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of leaving that place as it is, with the table swept already."""
    [gone] = _some(full, "apple", 1)
    exports = open_folder(str(full.root / "exports"))
    lease = Lease(exports, timedelta(minutes=1)).__enter__()

    def look_and_end(to: Folder) -> tuple[Holder | None, str | None]:
        """The export ends when somebody has begun to wait for it."""
        found = read_holder(to)
        lease.__exit__(None, None, None)
        return found

    monkeypatch.setattr("streaming.forget.exports.read_holder", look_and_end)

    assert stream(_forget(full, gone)) == 0
    assert f"{exports.root}: waiting until process" in capsys.readouterr().err
    assert _mentions(full.root, gone, but=full.source) == []


def test_one_that_loses_the_right_to_an_export_is_not_finished(full: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export could have begun by then, with rows that were swept too late. The next run looks again."""
    [gone] = _some(full, "apple", 1)

    def drop_and_lose(to: Folder, lease: Lease) -> None:
        drop_incomplete(to, lease)
        lease._lost = "another stream took it"
        to.delete(LEASE)

    with monkeypatch.context() as context:
        context.setattr(forget, "drop_incomplete", drop_and_lose)
        assert stream(_forget(full, gone)) == 5
    assert not [*open_folder(str(full.output)).names("_forgotten/receipts")]
    assert stream(_forget(full)) == 0
    assert _mentions(full.root, gone, but=full.source) == []


@pytest.mark.usefixtures("programs")
def test_what_spark_has_planned_is_forgotten_too(
    place: Place, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a stream that was killed between its offsets and its commit: all pictures of one manifest, one of another."""
    paths = place.put(*pictures[:8])
    replay = place.arguments("replay", "--max-pictures", "4")
    killed = run("tests.support.killing", ["before", "create", "features/date=*/2*", "1", "streaming", *replay])
    assert killed.returncode == -9, killed.stdout
    output = open_folder(str(place.output))
    planned, other = [[picture.path for picture in read_manifest(output, one)] for one in manifest_ids(output)]
    gone = [*planned, other[0]]
    [receipt] = _asked(_forget(place, *gone), capsys)
    assert receipt["removed"] == {"manifests": 5, "embeddings": 4}  # those that the killed stream had staged
    assert stream(replay) == 0
    assert place.embedded() == place.featurized()
    assert place.counted() == dict.fromkeys([path for path in paths if path not in gone], 1)
    assert place.committed() == 2


@pytest.mark.usefixtures("programs")
def test_the_running_stream_takes_notice(
    place: Place, pictures: list[Path], wait_for: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    """It never takes the pictures in again, and who reads the table meanwhile misses nobody else."""
    paths = place.put(*pictures[:10])
    running = start("streaming", place.arguments("run", "--interval", "100ms", "--max-pictures", "5"))
    try:
        wait_for(lambda: place.has(paths))
        to_come = str(place.source / "apple" / pictures[20].name)
        gone = [*paths[:3], to_come]
        done, missed = threading.Event(), []

        def read() -> None:
            while not done.is_set():
                missed.append(set(paths[3:]) - place.counted().keys())

        reader = threading.Thread(target=read)
        reader.start()
        [receipt] = _asked(_forget(place, *gone), capsys)
        done.set()
        reader.join()
        assert receipt["removed"]["features"] == 3
        assert len(missed) > 3
        assert not any(missed)
        shutil.copy(pictures[21], paths[0])  # written anew
        place.put(pictures[20])
        later = place.put(*pictures[22:25])
        wait_for(lambda: place.has(later))
    finally:
        running.terminate()
        said, _ = running.communicate(timeout=180)
    assert running.returncode == 0, said
    assert "denylist reloaded: " in said
    assert place.counted() == dict.fromkeys([*paths[3:], *later], 1)
    for path in gone:
        assert _mentions(place.output, path) == []


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("store", ["versitygw"], indirect=True)
def test_everything_in_a_bucket(bucket: Bucket, fitted: Path, pictures: list[Path], broken: list[Path]) -> None:
    """The same verb, the same receipt, and nothing comes back."""
    bucket.put_tree(fitted, "models")
    paths = bucket.put([*pictures[:8], *broken[:1]])
    replay = bucket.arguments("replay", "--max-pictures", "5", "--epoch-manifests", "2")
    assert run("streaming", replay).returncode == 0
    gone = [paths[0], paths[6], paths[8]]
    prefix = bucket.uri("input/apple/" + pictures[3].name)
    asked = ["forget", "--output", bucket.uri("output"), *LOCAL, *gone, "--prefix", prefix, "--json"]
    answers = []
    for program, *more in (["tests.support.by_spark", "--dry-run"], ["streaming"]):
        said = run(program, [*asked, *more])
        assert said.returncode == 0, said.stdout
        answers += json.loads(said.stdout.splitlines()[-1])
    [expected, receipt] = answers
    assert expected["removed"] == receipt["removed"]
    gone.append(paths[3])
    assert receipt["removed"]["features"] == 3
    assert receipt["removed"]["quarantine"] == 1
    assert run("streaming", replay).returncode == 0
    assert bucket.counted() == dict.fromkeys([path for path in paths if path not in gone], 1)
    for key in bucket.keys("output/"):
        if "/features/" not in key and "/quarantine/" not in key:
            body = bucket.s3.get_object(Bucket=bucket.name, Key=key)["Body"].read()
            if key.endswith(".parquet"):
                rows = pq.read_table(pa.BufferReader(body))
                assert not {*gone} & {*rows["path"].to_pylist()}
            else:
                assert not any(path.encode() in body for path in gone), key
