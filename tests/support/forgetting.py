"""What tests of forgetting share: a place with rows in every kind of file, and what must be left of it."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Sequence
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
from streaming.__main__ import main as stream
from streaming.export.record import latest, read_snapshot
from streaming.export.snapshots import snapshots
from streaming.features.schema import FEATURE_COUNT
from streaming.output import requests
from streaming.output.decision import complete_manifests
from streaming.output.known import fold
from streaming.output.lineage import Derivative, record
from streaming.output.manifests import append_manifest
from streaming.output.tables import finished
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder, StoredPicture, identity_of
from streaming.storage.locations import open_folder
from tests.support.small_table import DAY, commit, reject
from tests.support.streams import Place, begin, replay
from tests.support.tenures import LooseTenure

LOCAL = ("--master", "local[2,4]")
_UNSEALED = "20260101T000000Z-00000000"


def forget_words(place: Place, *more: str) -> list[str]:
    return ["forget", "--output", str(place.output), *LOCAL, *more]


def asked_of(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The receipts of a run in this process."""
    capsys.readouterr()
    assert stream([*arguments, "--json"]) == 0
    receipts: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return receipts


def mentions(folder: Path, path: str, but: Path | None = None) -> list[str]:
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


def tree_of(folder: Path) -> dict[str, str]:
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
    models.create(f"{_UNSEALED}/{bundle.IDENTITIES}", models.read(f"{version}/{bundle.IDENTITIES}"))  # killed
    return version


def _hashes(place: Place, version: str) -> dict[str, str]:
    hashes = bundle.hash_files(open_folder(str(place.models)), version)
    return {name: digest for name, digest in hashes.items() if name != bundle.MANIFEST}


class Written:
    """Does with an output what the stream does, without Spark."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._output = open_folder(str(place.output))
        begin(self._output)
        record(self._output, Derivative("models", str(place.models)))

    def replay_apples(self) -> None:
        files = sorted((self._place.source / "apple").iterdir())
        manifests = [self._take_in(files[start : start + 4], commit) for start in (0, 4, 8)]
        fold(LooseTenure(self._output), manifests)

    def replay_pears(self) -> None:
        self._take_in(sorted((self._place.source / "pear é").iterdir()), reject)
        complete_manifests(self._output, finished(self._output))

    def replay_figs(self) -> None:
        files = sorted((self._place.source / "fig").iterdir())
        for some in (files[:5], files[5:]):
            self._take_in(some, commit)

    def _take_in(self, files: Sequence[Path], outcome: Callable[[Folder, int, Sequence[str]], str]) -> str:
        paths = [str(file) for file in files]
        manifest = append_manifest(self._output, [StoredPicture(path, 1, DAY) for path in paths], DAY)
        assert outcome(self._output, 0, paths) == manifest
        return manifest


class Streamed:
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


def fill(place: Place, by: Written | Streamed, pictures: Sequence[Path], broken: Sequence[Path]) -> Place:
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


def restored(place: Place) -> Place:
    """The same as it was filled, at the same place."""
    shutil.rmtree(place.root)
    shutil.copytree(place.root.with_name("copy"), place.root)
    return place


def some(place: Place, folder: str, count: int) -> list[str]:
    return [str(file) for file in sorted((place.source / folder).iterdir())[:count]]


def one_of_each(place: Place) -> list[str]:
    counts = {"apple": 2, "pear é": 1, "fig": 1, "kiwi": 1}
    return [path for folder, count in counts.items() for path in some(place, folder, count)]


REMOVED = {
    "features": 3,
    "quarantine": 1,
    "the record of known pictures": 2,
    "manifests": 2,
    "requests": 1,
    "saved features": 4,
    "exports": 8,
}
"""What `one_of_each` comes to; the pictures of the first export are in the second one, too."""


def to_refit(place: Place) -> list[dict[str, object]]:
    version = Registry(open_folder(str(place.models))).current()
    return [{"models": str(place.models), "version": version, "pictures": 4}]


def without(rows: pa.Table, gone: Sequence[str]) -> pa.Table:
    return rows.filter(pa.array([path not in gone for path in rows["path"].to_pylist()]))


def check_gone(place: Place, gone: Sequence[str], before: pa.Table) -> None:
    """Nobody names them any more, nobody else is missing, and what was derived is whole."""
    named = {path: found for path in gone if (found := mentions(place.root, path, but=place.source))}
    assert named == {}
    assert place.rows() == without(before, gone)
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


LEASES = {"exports/_lease", "csv/_lease"}
GIVEN_UP = f"models/{_UNSEALED}/{bundle.MANIFEST}"
