"""Forgetting: pictures leave every place that the project put them, for good, and nobody else does."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
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

from batch_fit.held_back import HeldBack
from batch_fit.sample import read_identities, write_identities
from streaming import forget, requests
from streaming.__main__ import main as stream
from streaming.erasure import erase
from streaming.features import bundle
from streaming.features.registry import Registry
from streaming.features.schema import FEATURE_COUNT
from streaming.features.storage import open_folder
from streaming.features.stored import Folder, StoredPicture, identity_of
from streaming.forget_models import AffectedModel, erase_in_model
from streaming.lease import Holder, Lease, read_holder
from streaming.manifests import manifest_ids, read_manifest
from streaming.receipts import Ledger, finish
from streaming.snapshots import latest, read_snapshot, snapshots
from tests.buckets import Bucket
from tests.servers import versitygw
from tests.streams import Place, run, start

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
    models.create(f"{version}/{bundle.PICTURES}", write_identities({identity_of(path) for path in paths}))
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
    models.create(f"20260101T000000Z-00000000/{bundle.PICTURES}", models.read(f"{version}/{bundle.PICTURES}"))  # killed
    return version


def _hashes(place: Place, version: str) -> dict[str, str]:
    hashes = bundle.hash_files(open_folder(str(place.models)), version)
    return {name: digest for name, digest in hashes.items() if name != bundle.MANIFEST}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, fitted: Path, _samples: tuple[list[Path], list[Path]]) -> Place:
    """A place with rows in every kind of file: folded and not, in both tables, requested, fitted and saved."""
    pictures, broken = _samples
    place = Place(tmp_path_factory.mktemp("made") / "place")
    place.source.mkdir(parents=True)
    shutil.copytree(fitted, place.models)
    log = ("--log-folder", str(place.root.parent / "log"))
    place.put(*pictures[:12])
    assert stream(place.arguments("replay", "--max-pictures", "4", "--epoch-manifests", "3", *log)) == 0
    place.put(*broken[:2], folder="pear é")
    assert stream(place.arguments("replay", *log)) == 0
    exports = ["export", "--output", str(place.output), *LOCAL, *log]
    assert stream([*exports, "--to", str(place.root / "exports")]) == 0
    place.put(*pictures[12:20], folder="fig")
    assert stream(place.arguments("replay", "--max-pictures", "5", *log)) == 0
    assert stream([*exports, "--to", str(place.root / "exports")]) == 0
    assert stream([*exports, "--to", str(place.root / "csv"), "--format", "csv"]) == 0
    output = open_folder(str(place.output))
    [known] = read_manifest(output, manifest_ids(output)[-1])[:1]
    requested = place.put(*pictures[20:23], folder="kiwi")
    requests.create_request(output, [StoredPicture(path, 1, known.modification_time) for path in requested])
    _record_fit(place, sorted(place.counted()), place.root / "saved")
    shutil.copytree(place.root, place.root.with_name("copy"))
    return place


@pytest.fixture
def full(made: Place) -> Place:
    """The same as it was made, at the same place."""
    shutil.rmtree(made.root)
    shutil.copytree(made.root.with_name("copy"), made.root)
    return made


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


def test_a_picture_is_gone_everywhere_and_for_good(full: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """The others keep their rows, nothing takes it in again, and asking twice changes nothing."""
    before, gone, tree = full.rows(), _one_of_each(full), _tree(full.root)
    for path in gone:
        assert _mentions(full.output, path)
    [expected] = _asked(_forget(full, *gone, "--dry-run"), capsys)
    assert _tree(full.root) == tree
    [receipt] = _asked(_forget(full, *gone), capsys)
    _check_gone(full, gone, before)
    assert (expected["removed"], expected["refit"]) == (_REMOVED, _refit(full))
    assert (receipt["removed"], receipt["refit"]) == (_REMOVED, _refit(full))
    tree = _tree(full.root)
    [again] = _asked(_forget(full, *reversed(gone)), capsys)
    assert {**again, "finished_at": None} == {**receipt, "finished_at": None}
    assert {name for name, digest in _tree(full.root).items() if digest != tree.get(name)} - _LEASES == {
        f"out/_forgotten/receipts/{receipt['id']}.json"
    }
    assert stream(full.arguments("replay")) == 0
    there = [str(file) for file in full.source.rglob("*") if file.is_file()]
    assert full.counted() == dict.fromkeys([path for path in there if path not in gone], 1)
    reconciled = ["reconcile", "--input", str(full.source), "--output", str(full.output), *LOCAL, "--json"]
    capsys.readouterr()
    assert stream(reconciled) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["missed"], found["gone"]) == (0, 0)


_LEASES = {"exports/_lease", "csv/_lease"}


def test_a_prefix_is_gone_with_what_is_to_come(full: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Also from a model, which knows its pictures by hashes of whole paths only; people are told what to do."""
    gone = [str(file) for file in (full.source / "fig").iterdir()]
    others = _without(full.rows(), gone)
    (full.source / "figs").mkdir()
    assert stream(_forget(full, "--prefix", f"{full.source}/fig/")) == 0
    said = capsys.readouterr().out
    assert f"{len(gone):,} from features" in said
    assert f"refit        {Registry(open_folder(str(full.models))).current()} in {full.models}: 8 of its" in said
    assert full.rows() == others
    for path in gone:
        assert _mentions(full.root, path, but=full.source) == []
    shutil.copy(gone[0], full.source / "fig" / "new.jpg")
    shutil.copy(gone[0], full.source / "figs" / "new.jpg")
    assert stream(full.arguments("replay")) == 0
    assert str(full.source / "figs" / "new.jpg") in full.counted()
    assert not [path for path in full.counted() if path.startswith(f"{full.source}/fig/")]


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
    killed = run("tests.killing", [when, method, pattern, "1", "streaming", *_forget(full, *gone)])
    assert killed.returncode == -9, killed.stdout
    [receipt] = _asked(_forget(full), capsys)
    _check_gone(full, gone, before)
    assert (receipt["removed"], receipt["refit"]) == (_REMOVED, _refit(full))
    assert _asked(_forget(full), capsys) == []


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("step", ["progress", "one table file", "log", "receipt"])
def test_a_run_that_ends_anywhere_is_finished_by_the_next(
    step: str, full: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in this process; what is asked for next comes after."""
    before, gone = full.rows(), _one_of_each(full)

    def die(*arguments: Any) -> None:
        if step == "one table file":
            spark, files, *others = arguments
            erase(spark, files[:1], *others)
        if step == "receipt":
            context.setattr(arguments[0], "delete", die_at_once)
            finish(*arguments)
        raise _KilledError

    def die_at_once(name: str) -> None:
        raise _KilledError

    where = {
        "progress": (Ledger, "save"),
        "one table file": (forget, "erase"),
        "log": (forget, "_erase_in_log"),
        "receipt": (forget, "finish"),
    }
    with monkeypatch.context() as context:
        context.setattr(*where[step], die)
        with pytest.raises(_KilledError):
            stream(_forget(full, *gone))
    first, second = _asked(_forget(full, str(full.source / "never seen.jpg")), capsys)
    _check_gone(full, gone, before)
    assert (first["removed"], first["refit"]) == (_REMOVED, _refit(full))
    assert (second["removed"], second["refit"]) == ({}, [])


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

    monkeypatch.setattr("streaming.forget_exports.read_holder", look_and_end)
    assert stream(_forget(full, gone)) == 0
    assert f"{exports.root}: waiting until process" in capsys.readouterr().err
    assert _mentions(full.root, gone, but=full.source) == []


def test_what_spark_has_planned_is_forgotten_too(
    place: Place, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a stream that was killed between its offsets and its commit: all pictures of one manifest, one of another."""
    paths = place.put(*pictures[:8])
    replay = place.arguments("replay", "--max-pictures", "4")
    killed = run("tests.killing", ["before", "create", "features/date=*/2*", "1", "streaming", *replay])
    assert killed.returncode == -9, killed.stdout
    output = open_folder(str(place.output))
    planned, other = [[picture.path for picture in read_manifest(output, one)] for one in manifest_ids(output)]
    gone = [*planned, other[0]]
    [receipt] = _asked(_forget(place, *gone), capsys)
    assert receipt["removed"] == {"manifests": 5}
    assert stream(replay) == 0
    assert place.counted() == dict.fromkeys([path for path in paths if path not in gone], 1)
    assert place.committed() == 2


def test_the_running_stream_takes_notice(
    place: Place, pictures: list[Path], wait_for: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    """It never takes the pictures in again, and who reads the table meanwhile misses nobody else."""
    paths = place.put(*pictures[:10])
    running = start("streaming", place.arguments("run", "--interval", "100ms", "--max-pictures", "5"))
    try:
        wait_for(lambda: place.committed() >= 2)
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
        wait_for(lambda: place.counted().keys() >= {*later})
    finally:
        running.terminate()
        said, _ = running.communicate(timeout=60)
    assert running.returncode == 0, said
    assert "took notice of what is forgotten" in said
    assert place.counted() == dict.fromkeys([*paths[3:], *later], 1)
    for path in gone:
        assert _mentions(place.output, path) == []


@pytest.mark.parametrize("store", [versitygw], ids=["versitygw"], indirect=True)
def test_everything_in_a_bucket(bucket: Bucket, fitted: Path, pictures: list[Path], broken: list[Path]) -> None:
    """The same verb, the same receipt, and nothing comes back."""
    bucket.put_tree(fitted, "models")
    paths = bucket.put([*pictures[:8], *broken[:1]])
    replay = bucket.arguments("replay", "--max-pictures", "5", "--epoch-manifests", "2")
    assert run("streaming", replay).returncode == 0
    gone = [paths[0], paths[6], paths[8]]
    prefix = bucket.uri("input/apple/" + pictures[3].name)
    said = run("streaming", ["forget", "--output", bucket.uri("output"), *LOCAL, *gone, "--prefix", prefix, "--json"])
    assert said.returncode == 0, said.stdout
    [receipt] = json.loads(said.stdout.splitlines()[-1])
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
