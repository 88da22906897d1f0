"""Forgetting: pictures leave every place that the project put them, for good, and nobody else does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_fit.job import write_identities
from streaming import requests
from streaming.__main__ import main as stream
from streaming.features import bundle
from streaming.features.registry import Registry
from streaming.features.storage import open_folder
from streaming.features.stored import StoredPicture, identity_of
from streaming.manifests import manifest_ids, read_manifest
from tests.streams import Place

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


def _mentions(folder: Path, path: str) -> list[str]:
    """The files below a folder that name a picture, by its path or its identity."""
    found = []
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        data = file.read_bytes()
        if file.suffix == ".parquet":
            cells = [cell for column in pq.read_table(file).columns for cell in column.to_pylist()]
            named = path in cells or identity_of(path) in cells
        else:
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
    models.create(f"{version}/{bundle.REPORT}", f"<p><code>{paths[0]}</code></p>".encode())
    saved.mkdir()
    table = pa.table({"path": list(paths), "label": ["x"] * len(paths), "features": [[1.0]] * len(paths)})
    pq.write_table(table, saved / "part-0.parquet")
    (saved / ".part-0.parquet.crc").write_bytes(b"a checksum")
    file = place.models / version / bundle.MANIFEST
    manifest = bundle.BundleManifest.model_validate_json(file.read_bytes())
    changes = {"files": _hashes(place, version), "saved_features": str(saved)}
    file.write_text(manifest.model_copy(update=changes).model_dump_json())
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
    place.put(*broken[:2], folder="pear é")
    assert stream(place.arguments("replay", "--max-pictures", "4", "--epoch-manifests", "3", *log)) == 0
    place.put(*pictures[12:20], folder="fig")
    assert stream(place.arguments("replay", "--max-pictures", "5", *log)) == 0
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


def test_a_picture_is_gone_everywhere_and_for_good(full: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """One of each place; the others keep their rows, nothing takes it in again, and asking twice changes nothing."""
    place = full
    before = place.rows()
    counts = {"apple": 2, "pear é": 1, "fig": 1, "kiwi": 1}
    gone = [path for folder, count in counts.items() for path in _some(place, folder, count)]
    tree = _tree(place.root)
    [expected] = _asked(_forget(place, *gone, "--dry-run"), capsys)
    assert _tree(place.root) == tree
    for path in gone:
        assert _mentions(place.output, path)
    [receipt] = _asked(_forget(place, *gone), capsys)
    assert receipt["removed"] == expected["removed"]
    version = Registry(open_folder(str(place.models))).current()
    assert receipt["removed"] == {
        "features": 3,
        "quarantine": 1,
        "the record of known pictures": 2,
        "manifests": 2,
        "requests": 1,
        "saved features": 4,
    }
    assert receipt["refit"] == [{"models": str(place.models), "version": version, "pictures": 4}]
    for path in gone:
        assert _mentions(place.output, path) == []
        assert _mentions(place.models, path) == []
        assert _mentions(place.root / "saved", path) == []
    kept = before.filter(pa.array([path not in gone for path in before["path"].to_pylist()]))
    assert place.rows() == kept
    assert Registry(open_folder(str(place.models))).open(version).manifest.forgotten == 4
    after = _tree(place.output)
    [again] = _asked(_forget(place, *reversed(gone)), capsys)
    assert {**again, "finished_at": None} == {**receipt, "finished_at": None}
    assert {name for name, digest in _tree(place.output).items() if digest != after.get(name)} == {
        f"_forgotten/receipts/{receipt['id']}.json"
    }
    assert stream(place.arguments("replay")) == 0
    assert place.counted() == dict.fromkeys(
        [str(file) for file in place.source.rglob("*") if file.is_file() and str(file) not in gone], 1
    )
    assert stream(["reconcile", "--input", str(place.source), "--output", str(place.output), *LOCAL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["missed"], found["gone"]) == (0, 0)
