"""The stream as a whole, on real Spark: each test starts it, disturbs it, and counts."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.errors import TransientError
from streaming.__main__ import main
from streaming.features.backbone import BackboneRunner
from streaming.features.imaging import Limits, decode
from streaming.features.schema import EMBEDDINGS, FEATURES, QUARANTINE
from streaming.output import manifests
from streaming.output.decision import decide
from streaming.output.tables import Tables
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import open_folder
from tests.support.streams import TWO_TASKS, Place, end, replay, start

pytestmark = pytest.mark.usefixtures("programs")

Wait = Callable[[Callable[[], bool]], None]


def test_replay_gives_each_picture_one_row(
    place: Place, pictures: list[Path], broken: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Good pictures are in features, broken ones in quarantine, nothing is in both or missing."""
    good, bad = place.put(*pictures), place.put(*broken, folder="broken")
    assert replay(place, "--max-pictures", "25", *TWO_TASKS) == 0
    said = capsys.readouterr().out
    assert re.search(rf"pictures +{len(good) + len(bad)} in .* pictures/s", said)
    features, quarantine = place.rows("features"), place.rows("quarantine")
    assert features.column("path").to_pylist() == sorted(good)
    assert quarantine.column("path").to_pylist() == sorted(bad)
    version = Registry(open_folder(str(place.models))).current()
    assert features.column("model_version").unique().to_pylist() == [version]
    assert set(features.column("label").to_pylist()) == {"apple"}
    assert version in said
    for reason in set(quarantine.column("reason").to_pylist()):
        assert reason in said


def test_a_second_replay_says_so_and_adds_nothing(
    place: Place, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """And where the model has changed since, it says how to featurize again."""
    place.put(*pictures[:10])
    assert replay(place) == 0
    before = place.rows()
    assert replay(place) == 0
    assert "nothing new" in capsys.readouterr().out
    version = place.promote_another(1)
    assert replay(place) == 0
    said = capsys.readouterr().out
    assert version in said
    assert "--output NEW" in said
    assert place.rows() == before
    place.put(*pictures[10:15])
    assert replay(place) == 0
    assert set(place.counted().values()) == {1}
    assert len(place.counted()) == 15


def test_the_features_of_a_picture_do_not_depend_on_its_company(
    place: Place, pictures: list[Path], tmp_path: Path
) -> None:
    """The same picture gives the same bits alone, in a batch of many, and in another process."""
    place.put(*pictures[:40])
    assert replay(place, *TWO_TASKS) == 0
    other = Place(tmp_path / "other")
    shutil.copytree(place.models, other.models)
    for number in range(2):
        other.put(pictures[number])
        assert replay(other) == 0
    many = dict(zip([Path(p).name for p in place.rows()["path"].to_pylist()], place.rows()["features"], strict=True))
    for path, features in zip(other.rows()["path"].to_pylist(), other.rows()["features"], strict=True):
        assert many[Path(path).name] == features


def test_every_reader_reads_the_tables_from_the_first_moment_on(
    place: Place, pictures: list[Path], broken: list[Path], new_session: Callable[[], SparkSession]
) -> None:
    """pandas, pyarrow, DuckDB and Spark agree on all tables, before the first picture and after it."""
    Tables(open_folder(str(place.output)), with_embeddings=True).prepare()
    for filled in (False, True):
        if filled:
            place.put(*pictures[:20])
            place.put(*broken, folder="broken")
            assert replay(place, "--max-pictures", "7") == 0
        spark = new_session()
        tables = (("features", FEATURES, 20), ("embeddings", EMBEDDINGS, 20), ("quarantine", QUARANTINE, len(broken)))
        for table, schema, rows in tables:
            root = str(place.output / table)
            arrow = place.rows(table)
            assert len(arrow) == rows * filled
            assert arrow.drop(["date"]).schema.equals(schema)
            assert len(pd.read_parquet(root)) == len(arrow)
            with duckdb.connect() as database:
                found = database.execute(f"SELECT * FROM read_parquet('{root}/**/*.parquet')").fetchall()
            assert len(found) == len(arrow)
            frame = spark.read.parquet(root)
            assert frame.count() == len(arrow)
            assert set(frame.columns) == {*schema.names, "date"}
        spark.stop()


def test_the_embeddings_are_what_the_backbone_gave(place: Place, pictures: list[Path], broken: list[Path]) -> None:
    """One for each row of features, in the same file and place; their projection is the features, bit for bit."""
    place.put(*pictures[:10])
    place.put(*broken, folder="broken")
    assert replay(place, "--max-pictures", "7") == 0
    registry = Registry(open_folder(str(place.models)))
    model = registry.open(registry.current())
    backbone = BackboneRunner(model.file(bundle.BACKBONE))
    limits = Limits(max_bytes=2**20, max_pixels=10**6)
    for file in (place.output / "features").glob("date=*/2*.parquet"):
        features = pq.ParquetFile(file).read().to_pylist()
        beside = Path(str(file).replace("/features/", "/embeddings/"))
        embeddings = pq.ParquetFile(beside).read().to_pylist() if features else []
        for row, raw in zip(features, embeddings, strict=True):
            expected = backbone.run(decode(Path(row["path"]).read_bytes(), limits).pixels)
            assert np.array_equal(np.array(raw["embedding"], np.float32), expected)
            assert np.array_equal(np.array(row["features"], np.float32), model.projection().apply(expected)[0])
            assert (raw["path"], raw["processed_at"]) == (row["path"], row["processed_at"])
            assert model.manifest.files[bundle.BACKBONE].startswith(raw["backbone"])
            assert row["sha256"] == hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()
    assert place.embedded() == place.featurized()
    assert list((place.output / "_embeddings").iterdir()) == []


def test_embeddings_may_be_dropped_and_kept_again(place: Place, pictures: list[Path]) -> None:
    """Rows without one stay without."""
    place.put(*pictures[:3])
    assert replay(place, "--embeddings", "drop") == 0
    assert not (place.output / "embeddings").exists()
    kept = place.put(*pictures[3:5])
    assert replay(place) == 0
    assert place.embedded() == sorted(kept)
    assert len(place.featurized()) == 5


def test_a_picture_that_vanished_is_a_row_in_quarantine(place: Place, pictures: list[Path]) -> None:
    """What was seen is accounted for, though it cannot be read any more."""
    paths = place.put(*pictures[:4])
    output = open_folder(str(place.output))
    gone = str(place.source / "apple" / "gone.jpg")
    seen = [StoredPicture(path, 1000, datetime(2026, 1, 1, tzinfo=UTC)) for path in [*paths, gone]]
    manifests.append_manifest(output, seen, datetime.now(UTC))
    assert replay(place) == 0
    assert place.counted() == dict.fromkeys([*paths, gone], 1)
    [row] = place.rows("quarantine").to_pylist()
    assert (row["path"], row["reason"], row["sha256"], row["length"]) == (gone, "vanished", None, 1000)


def test_what_an_attempt_left_in_quarantine_is_replaced(place: Place, broken: list[Path]) -> None:
    """A quarantine file without its features file is of a killed attempt, and does not count twice."""
    paths = place.put(*broken, folder="broken")
    output = open_folder(str(place.output))
    seen = [StoredPicture(path, Path(path).stat().st_size, datetime(2026, 1, 1, tzinfo=UTC)) for path in paths]
    manifest = manifests.append_manifest(output, seen, datetime.now(UTC))
    left = place.output / manifests.table_file("quarantine", manifest)
    left.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([], QUARANTINE), left)
    assert replay(place) == 0
    assert place.counted() == dict.fromkeys(paths, 1)


def test_the_second_signal_stops_at_once(place: Place, pictures: list[Path], wait_for: Wait) -> None:
    """Without waiting for the micro-batch; the next start does it."""
    paths = place.put(*pictures)
    process = start("streaming", place.arguments("run", "--interval", "100ms"))
    wait_for(lambda: len(place.logged()) == 1 and (place.checkpoint / "000001" / "offsets" / "0").exists())
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    end(process)
    assert process.returncode in (130, 0)
    assert replay(place) == 0
    assert place.counted() == dict.fromkeys(paths, 1)


def test_names_of_every_kind_come_through(place: Place, pictures: list[Path]) -> None:
    """Spaces, accents, %, +, #, ?, quotes, leading _ and ., in files and folders, and in the output's own path."""
    odd = Place(place.root / "a b%20+#é[1]{2}*'")
    shutil.copytree(place.models, odd.models)
    names = ["_x.jpg", ".x.jpg", "a b.JPG", "50%.jpg", "%41.jpg", "a+b#c?d.jpg", "é\u0301.jpg", "'\"\\.jpg", "x\n.jpg"]
    for name in names:
        for folder in ("_f", ".g", "h%20 #"):
            (odd.source / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures[0], odd.source / folder / name)
    assert replay(odd) == 0
    expected = [str(odd.source / folder / name) for folder in ("_f", ".g", "h%20 #") for name in names]
    assert odd.counted() == dict.fromkeys(expected, 1)
    assert len(odd.rows()) == len(expected)
    assert replay(odd) == 0
    assert odd.counted() == dict.fromkeys(expected, 1)


def test_a_full_disk_is_one_line_and_loses_nothing(
    place: Place, pictures: list[Path], small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When there is room again, the next start goes on where the last one stopped."""
    full = Place(small_disk)
    paths = place.put(*pictures[:20])
    filler = small_disk / "filler"
    here = [
        "replay", "--input", str(place.source), "--models", str(place.models), "--output", str(full.output),
        "--settle", "0s", "--master", "local[2,4]",
    ]  # fmt: skip
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert main(here) == 6
    assert "the disk is full" in capsys.readouterr().err
    filler.unlink()
    assert main(here) == 0
    assert full.counted() == dict.fromkeys(paths, 1)


def test_times_are_what_they_say(place: Place, pictures: list[Path]) -> None:
    """modification_time is the file's to the microsecond; processed_at is this run's; both in UTC."""
    [path] = place.put(pictures[0])
    began = datetime.now(UTC) - timedelta(seconds=1)
    assert replay(place) == 0
    [row] = place.rows().to_pylist()
    assert row["modification_time"] == datetime.fromtimestamp(0, UTC) + timedelta(
        microseconds=Path(path).stat().st_mtime_ns // 1000
    )
    assert began < row["processed_at"] < datetime.now(UTC) + timedelta(seconds=1)
    assert (row["length"], row["width"], row["height"]) == (Path(path).stat().st_size, 100, 100)
    assert np.isfinite(row["features"]).all()
    assert row["reconstruction_error"] >= 0


def test_a_replay_does_not_call_pictures_left_whose_rows_are_there(
    place: Place, pictures: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may fail after the file that decides: the next attempt completes the manifest, and has no report."""
    failed: list[str] = []

    def decide_and_fail(output: Folder, manifest: str, *more: Any) -> bool:
        decided = decide(output, manifest, *more)
        if not failed:
            failed.append(manifest)
            raise TransientError("the store fails")
        return decided

    monkeypatch.setattr("streaming.output.tables.decide", decide_and_fail)
    paths = place.put(*pictures[:8])
    capsys.readouterr()
    assert replay(place, "--max-pictures", "4", "--json") == 0
    assert failed
    assert json.loads(capsys.readouterr().out)["left"] == 0
    assert place.counted() == dict.fromkeys(paths, 1)
