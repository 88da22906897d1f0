"""Pictures, kernels and nodes that kill the process which featurizes: no other picture suffers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyspark
import pytest

from streaming.__main__ import main as stream
from tests.support import poison
from tests.support.streams import PROJECT, TWO_TASKS, Place, start

pytestmark = pytest.mark.usefixtures("programs")

_NAMES = ("features", "reconstruction_error", "width", "height")


def _replay(place: Place, hook: Path, *more: str, **environment: str) -> None:
    hook.mkdir(exist_ok=True)
    replay = start("streaming", place.arguments("replay", *more), **poison.environment(hook, PROJECT), **environment)
    said, _ = replay.communicate(timeout=600)
    assert replay.returncode == 0, said


def _features(rows: pa.Table) -> dict[str, list[object]]:
    """What was computed, by file name."""
    return {row["path"].rpartition("/")[2]: [row[name] for name in _NAMES] for row in rows.to_pylist()}


def _spark_home(folder: Path) -> str:
    """Spark as it is installed, with a place for what executors write, who would do so beside it."""
    folder.mkdir()
    for part in ("bin", "jars", "python"):
        (folder / part).symlink_to(Path(pyspark.__file__).parent / part)
    return str(folder)


def test_a_picture_that_kills_hangs_or_fills_its_worker_harms_no_other(
    place: Place, pictures: list[Path], tmp_path: Path
) -> None:
    """It is in quarantine; the others have the features that they have without it, the next batches as fast."""
    place.put(*pictures)
    assert stream(place.arguments("replay")) == 0
    healthy = _features(place.rows())
    sick = Place(tmp_path / "sick")
    shutil.copytree(place.models, sick.models)
    shutil.copytree(place.source, sick.source)
    files = sorted((sick.source / "apple").iterdir())
    harms = {3: "segfault", 6: "hang", 9: "memory", 12: "die twice", 15: "memory of a thread"}
    for place_in_batch, harm in harms.items():
        poison.poisoned(files[place_in_batch], harm, sick.source / "apple")
    limits = ("--max-pixels", "1000000", "--timeout", "5s")  # 4 GiB are more than such pictures may take
    _replay(sick, tmp_path / "hook", "--max-pictures", "20", *limits, *TWO_TASKS)
    assert sick.counted() == {str(file): 1 for file in files}
    quarantined = {Path(row["path"]): (row["reason"], row["detail"]) for row in sick.rows("quarantine").to_pylist()}
    ended = "glibc ended the process that featurized it with exit code 127, twice"
    assert quarantined == {
        files[3]: ("crashed", "the process that featurized it was ended by SIGSEGV, twice"),
        files[6]: ("timeout", "it took longer than the 5s of imaging.timeout, twice"),
        files[9]: ("crashed", "it needs more than 404 MiB of memory"),
        files[15]: ("crashed", f"{ended}: most likely it needs more than 404 MiB of memory"),
    }
    survivors = _features(sick.rows())
    assert survivors == {name: healthy[name] for name in survivors}
    children = (tmp_path / "hook" / "children").read_text().splitlines()
    assert len(children) <= 20 + len(harms)
    assert len(set(children)) <= 4 + 9  # one for each of at most four tasks, and for each that died
    assert sick.committed() == 3


def test_executors_and_workers_that_die_in_mid_batch_cost_no_row(
    place: Place, pictures: list[Path], tmp_path: Path
) -> None:
    """One of two executors is killed, and a worker, each once; all pictures get their features."""
    (tmp_path / "poisoned").mkdir()
    sick = [
        poison.poisoned(pictures[0], "kill executor once", tmp_path / "poisoned"),
        poison.poisoned(pictures[10], "die once", tmp_path / "poisoned"),
    ]
    paths = place.put(*sick, *pictures[1:10], *pictures[11:20])
    cluster = ("--master", "local-cluster[2,1,1024]")
    _replay(place, tmp_path / "hook", *cluster, SPARK_HOME=_spark_home(tmp_path / "spark"))
    assert place.counted() == dict.fromkeys(paths, 1)
    assert len(place.rows()) == len(paths)
    assert {file.name for file in (tmp_path / "hook").glob("*-0")} == {"_kill_executor-1-0", "_die-1-0"}
