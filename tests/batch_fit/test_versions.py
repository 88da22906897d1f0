"""models list --output: how many pictures of an output are in which model."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_fit.__main__ import main
from streaming.output.manifests import table_file
from streaming.storage.locations import open_folder
from tests.support.models import promote_model
from tests.support.small_table import commit
from tests.support.streams import begin


def test_pictures_of_an_output_are_counted_by_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of models that the registry no longer has, too; a damaged file is named."""
    output, models = open_folder(str(tmp_path / "out")), ["--models", str(tmp_path / "models")]
    begin(output)
    first, second = (promote_model(tmp_path / "models", b"a backbone", k=k, seed=k) for k in (2, 3))
    commit(output, 0, ["/a.jpg", "/b.jpg"], model=first)
    commit(output, 1, ["/c.jpg"], model="20250101T000000Z-00000000")
    commit(output, 1, [])
    manifest = commit(output, 2, ["/d.jpg"], model=first)
    assert main(["models", "list", *models]) == 0
    assert "in output" not in capsys.readouterr().out
    assert main(["models", "list", *models, "--output", output.root]) == 0
    said = capsys.readouterr().out
    assert "in output" in said.splitlines()[0]
    counted = {line.removeprefix("*").split()[0]: line.removeprefix("*").split() for line in said.splitlines()[1:]}
    assert counted[first][4] == "3"
    assert counted[second][4] == "0"
    assert counted["20250101T000000Z-00000000"][1:] == ["1", "not", "in", "this", "registry"]
    Path(output.path(table_file("features", manifest))).write_bytes(b"PAR1")
    assert main(["models", "list", *models, "--output", output.root, "--log-format", "text"]) == 5
    assert f"{manifest}.parquet cannot be read: " in capsys.readouterr().err
    assert main(["models", "list", *models, "--output", str(tmp_path / "nothing")]) == 5
