"""An output, its registry and its exports, made by an earlier release, go on working as if today's had made them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from batch_fit.__main__ import main as batch_fit
from streaming.__main__ import main as stream
from streaming.registry.registry import Registry
from streaming.storage.folder import identity_of
from streaming.storage.locations import open_folder
from tests.support.earlier import unpacked
from tests.support.streams import Place, replay

pytestmark = pytest.mark.usefixtures("jvm")

LOCAL = ("--master", "local[2,4]")
FORGOTTEN = ("monday/Plum/000005.jpg", "tuesday/Plum/000005.jpg")
"""By the earlier release, by path and by prefix. The files are still there."""

Ask = Callable[..., str]


@pytest.fixture
def earlier() -> Iterator[Place]:
    """As the earlier release left it."""
    with unpacked() as place:
        yield place


@pytest.fixture
def ask(earlier: Place, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Ask a verb of the stream about the output; returns its answer."""

    def answer(verb: str, *more: str) -> str:
        capsys.readouterr()
        assert stream([verb, *more, "--output", str(earlier.output), "--log-format", "text"]) == 0
        return capsys.readouterr().out

    return answer


def expected(place: Place, *gone: str) -> Counter[str]:
    """Each picture of the input once, but for those that were forgotten."""
    forgotten = {str(place.source / name) for name in (*FORGOTTEN, *gone)}
    return Counter({str(file) for file in place.source.rglob("*.jpg")} - forgotten)


def of(rows: pa.Table, paths: pa.Table) -> pa.Table:
    """The rows that have the paths of another table."""
    known = {*paths.column("path").to_pylist()}
    return rows.filter(pa.array([path in known for path in rows.column("path").to_pylist()]))


def read(table: Path) -> pa.Table:
    """All features of an output, sorted by path."""
    return ds.dataset(table / "features", format="parquet", partitioning="hive").to_table().sort_by("path")


def exported(folder: Path) -> pd.DataFrame:
    """The latest snapshot, read as the README says."""
    latest = json.loads((folder / "LATEST").read_text())
    return pd.read_parquet(folder / latest["snapshot"])


def test_operators_find_what_the_earlier_release_left(earlier: Place, ask: Ask) -> None:
    """It was killed between two manifests. Then two pictures were requested, and a retry of a mended one."""
    status = json.loads(ask("status", "--json"))
    assert status["state"] in ("died", "expired")  # on the machine where it was made, and on others
    assert (status["features"]["rows"], status["quarantine"]["rows"]) == (21, 3)
    assert (status["unfinished_manifests"], status["unfinished_pictures"], status["requests"]) == (1, 3, 1)
    assert status["model_version"] == Registry(open_folder(str(earlier.models))).current()

    quarantine = json.loads(ask("quarantine", "list", "--json", *LOCAL))
    assert quarantine["reasons"] == {"corrupt": 1, "empty": 1, "not_an_image": 1}
    assert quarantine["retries"] == 1

    (earlier.source / "monday/Lime/000003.jpg").unlink()
    found = json.loads(ask("reconcile", "--json", "--input", str(earlier.source), *LOCAL))
    assert found["listed"] == sum(expected(earlier).values())
    counts = ("missed", "changed", "gone", "requested", "unsettled")
    assert [found[count] for count in counts] == [0, 1, 1, 2, 0]
    [mended] = found["changed_examples"]
    assert mended["path"].endswith("broken_000000.jpg")


def test_the_stream_goes_on_and_loses_and_repeats_nothing(
    earlier: Place, pictures: list[Path], ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was left in the log, what was requested, and what has come since."""
    before = earlier.rows()
    assert "holds all 21 rows" in ask("export", "--to", str(earlier.root / "exports"), *LOCAL)
    earlier.put(*pictures[:4], folder="friday")

    assert replay(earlier) == 0
    rows = earlier.rows()
    assert json.loads((earlier.output / "_format.json").read_text()) == {"format": 2}
    assert earlier.counted() == expected(earlier)
    assert of(rows, before) == before
    first, current = (manifest.version for manifest in Registry(open_folder(str(earlier.models))).versions())
    new = set(rows.column("path").to_pylist()) - {*before.column("path").to_pylist()}
    assert len(new) == 3 + 2 + 1 + 4
    made_by = dict(zip(rows.column("path").to_pylist(), rows.column("model_version").to_pylist(), strict=True))
    assert {made_by[path] for path in new} == {current}

    frame = pd.read_parquet(earlier.output / "features")
    assert len(frame) == len(rows) == 31
    components = {*zip(frame["model_version"], frame["features"].str.len(), strict=True)}
    assert components == {(first, 3), (current, 4)}
    capsys.readouterr()
    assert replay(earlier) == 0
    assert "nothing new" in capsys.readouterr().out
    status = json.loads(ask("status", "--json"))
    assert (status["unfinished_manifests"], status["requests"], status["quarantine"]["rows"]) == (0, 0, 2)

    said = ask("export", "--to", str(earlier.root / "exports"), "--model", "as-ingested", *LOCAL)
    assert "rows         31 of" in said
    assert Counter(exported(earlier.root / "exports")["path"]) == Counter(rows.column("path").to_pylist())


def test_pictures_are_forgotten_wherever_the_earlier_release_put_them(earlier: Place, ask: Ask) -> None:
    """In tables, records, snapshots, saved features and models, and for good."""
    before = earlier.rows()
    one, prefix = "monday/Apple Red/000000.jpg", "tuesday/Banana/"
    gone = [one, "tuesday/Banana/000001.jpg"]
    asked = [str(earlier.source / one), "--prefix", f"{earlier.source}/{prefix}"]
    [receipt] = json.loads(ask("forget", *asked, "--json", *LOCAL))
    assert receipt["removed"]["features"] == 2
    assert [model["pictures"] for model in receipt["refit"]] == [1, 2]

    paths = [str(earlier.source / name) for name in gone]
    assert {path: found for path in paths if (found := named(earlier, path))} == {}
    assert earlier.rows() == before.filter(pa.array([path not in paths for path in before["path"].to_pylist()]))
    assert len(exported(earlier.root / "exports")) == 19
    assert replay(earlier) == 0
    assert earlier.counted() == expected(earlier, *gone)


def named(place: Place, path: str) -> list[Path]:
    """The files outside the input that name a picture, by its path or its identity."""
    found = []
    for file in place.root.rglob("*"):
        if file.is_file() and not file.is_relative_to(place.source):
            data = file.read_bytes()
            if file.suffix == ".parquet":
                cells = [cell for column in pq.read_table(file).columns for cell in column.to_pylist()]
                is_named = path in cells or identity_of(path) in cells
            else:
                is_named = path.encode() in (gzip.decompress(data) if file.suffix == ".gz" else data)
            if is_named:
                found.append(file)
    return found


def test_its_models_serve_as_before_and_can_be_added_to(
    earlier: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Today's code makes of a picture what the earlier release made of it with the same model."""
    registry = Registry(open_folder(str(earlier.models)))
    first, second = (manifest.version for manifest in registry.versions())
    assert registry.current() == second
    before = earlier.rows().filter(pc.field("model_version") == second)
    assert replay(earlier, "--output", str(tmp_path / "again")) == 0
    again = of(read(tmp_path / "again"), before)
    for column in ("features", "reconstruction_error"):
        made, made_before = (np.array(rows.column(column).to_pylist()) for rows in (again, before))
        np.testing.assert_allclose(made, made_before, rtol=1e-3, atol=1e-3)

    registry.promote(first)
    assert registry.rollback() == second
    places = ("--input", str(earlier.source), "--models", str(earlier.models))
    assert batch_fit(["fit", *places, "--k", "5", "--from", second, *LOCAL]) == 0
    refitted = registry.open(registry.current()).manifest
    assert (refitted.from_version, refitted.k, refitted.forgotten) == (second, 5, len(FORGOTTEN))
    assert refitted.pictures == 18 + 8 + 2 + 1
    capsys.readouterr()
    assert batch_fit(["models", "list", *places[2:]]) == 0
    assert capsys.readouterr().out.count("tiny.tflite sha256:") == 3
