"""A file of an output that a power cut left damaged: each verb names it and says what to do, or does without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conf.errors import OutputError
from streaming.__main__ import main
from streaming.output.known import KnownPictures, fold
from streaming.output.lineage import Derivative, record
from streaming.output.manifests import append_manifest
from streaming.output.tables import Tables
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import open_folder
from tests.support.models import promote_model
from tests.support.small_table import DAY, commit, reject
from tests.support.streams import Place, begin
from tests.support.tenures import LooseTenure


@pytest.fixture
def filled(tmp_path: Path) -> Place:
    """An output with a file of each kind."""
    place = Place(tmp_path)
    place.source.mkdir()
    (place.source / "d.jpg").write_bytes(b"")
    output = open_folder(str(place.output))
    begin(output)
    promote_model(place.models, b"a backbone", k=4, seed=0)
    record(output, Derivative("models", str(place.models)))
    pictures = [StoredPicture(str(place.source / f"{name}.jpg"), 1, DAY) for name in "abc"]
    folded = append_manifest(output, pictures[:1], DAY)
    assert commit(output, 0, [pictures[0].path], backbone="0123456789abcdef") == folded
    fold(LooseTenure(output), [folded])
    append_manifest(output, pictures[1:2], DAY)
    reject(output, 0, [pictures[1].path])
    append_manifest(output, pictures[2:], DAY)
    return place


def _damage(place: Place, kind: str) -> list[Path]:
    files = sorted(place.output.glob(kind))
    assert files
    for file in files:
        file.write_bytes(b"{")  # as many a file without a byte has a meaning
    return files


@pytest.mark.parametrize(
    "kind",
    ["features/*/2*", "quarantine/*/2*", "embeddings/*/2*", "_known/*", "_manifests/2*", "_derivatives/*"],
)
def test_a_damaged_file_is_named(kind: str, filled: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Never a failure that nobody expected, of which only a library speaks."""
    files = _damage(filled, kind)
    output = ["--output", str(filled.output), "--log-format", "text"]
    told = 0
    for words in (
        ["status"],
        ["quarantine", "list"],
        ["quarantine", "retry", "--reason", "corrupt"],
        ["reconcile", "--input", str(filled.source)],
        ["export", "--to", str(filled.root / "to"), "--model", "as-ingested"],
        ["forget", str(filled.source / "a.jpg"), "--dry-run"],
    ):
        code = main([*words, *output])
        said = capsys.readouterr().err.splitlines()
        assert code in (0, OutputError.exit_code), said
        if code:
            assert any(str(file) in said[-1] for file in files), said
            told += 1
    assert told


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("features/*/2*", lambda output: Tables(output).latest_model()),
        ("_known/*", KnownPictures),
        ("_manifests/2*", KnownPictures),
    ],
)
def test_a_stream_that_starts_names_it(kind: str, read: Callable[[Folder], object], filled: Place) -> None:
    """Before Spark starts."""
    _damage(filled, kind)
    with pytest.raises(OutputError, match=r"cannot be read: .*; restore it"):
        read(open_folder(str(filled.output)))
