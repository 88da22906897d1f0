"""The verb `models`: lists a registry, with dates and with counts of an output, and changes the current model."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
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
    column = said.splitlines()[0].index("in output")
    counted = {line.removeprefix("*").split()[0]: line[column:].split() for line in said.splitlines()[1:]}
    assert counted[first][0] == "3"
    assert counted[second][0] == "0"
    assert counted["20250101T000000Z-00000000"] == ["1", "not", "in", "this", "registry"]
    capsys.readouterr()
    assert main(["models", "list", *models, "--output", output.root, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {one["version"]: one["rows"] for one in listed["versions"]} == {first: 3, second: 0}
    assert listed["deleted"] == {"20250101T000000Z-00000000": 1}
    Path(output.path(table_file("features", manifest))).write_bytes(b"PAR1")
    assert main(["models", "list", *models, "--output", output.root, "--log-format", "text"]) == 5
    assert f"{manifest}.parquet cannot be read: " in capsys.readouterr().err
    assert main(["models", "list", *models, "--output", str(tmp_path / "nothing"), "--log-format", "text"]) == 0
    listed, told = capsys.readouterr()  # one file of settings serves before the first run, too
    assert "in output" not in listed
    assert told.endswith("nothing: no stream has written here yet, so no rows are counted\n")


def test_the_list_tells_when_models_were_fitted_and_promoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of former ones the registry knows only that they were current before."""
    models = ["--models", str(tmp_path)]
    first, second = (promote_model(tmp_path, b"a backbone", k=k, seed=k) for k in (2, 3))
    assert main(["models", "list", *models, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    by_version = {one["version"]: one for one in listed["versions"]}
    before, current = by_version[first], by_version[second]
    assert (before["current"], before["was_current"]) == (False, True)
    assert (current["current"], current["was_current"]) == (True, False)
    assert (before["promoted_at"], before["rows"], listed["deleted"]) == (None, None, None)
    for time in (before["fitted_at"], current["promoted_at"]):
        assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(time) < timedelta(minutes=10)
    assert main(["models", "list", *models]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    promoted = datetime.fromisoformat(current["promoted_at"])
    told = {line.lstrip("* ").split()[0]: line[head.index("promoted") :][:16].split("  ")[0] for line in lines}
    assert told == {first: "before", second: f"{promoted:%Y-%m-%d %H:%M}"}


def test_a_wrong_path_is_not_an_empty_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A registry in which only a fit that is not done has written is one without models."""
    models = tmp_path / "models"
    asked = ["models", "list", "--models", str(models), "--log-format", "text"]
    assert main(asked) == 4
    assert f"{models} is not there; check the path" in capsys.readouterr().err
    (models / "20260101T000000Z-00000000").mkdir(parents=True)
    (models / "20260101T000000Z-00000000" / "projection.npz").touch()
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert f"no models yet in {models}\n" in said
    assert f"next         python -m batch_fit fit --input PICTURES --models {models}\n" in said
    (models / "holiday.jpg").touch()
    assert main(asked) == 4
    assert f"{models} is not a registry, and holds holiday.jpg" in capsys.readouterr().err


def test_a_promotion_tells_what_was_current_and_how_to_undo_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--models", str(tmp_path)]
    first, second = (promote_model(tmp_path, b"a backbone", k=k, seed=k) for k in (2, 3))
    assert main(["models", "rollback", *models, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": str(tmp_path), "current": first, "before": second}
    assert main(["models", "promote", second, *models, "--log-format", "text"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"current      {second}",
        f"next         python -m batch_fit models promote {first} --models {tmp_path}",
    ]
    assert main(["models", "show", *models, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == second
