"""Work ahead, without Spark: it begins when a manifest is appended, and gives way to what is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from streaming.engine.executors import Executors
from streaming.engine.prefetch import Prefetch
from streaming.engine.serving import ModelSource, ServedModel
from streaming.output.manifest_log import ManifestLog
from streaming.output.manifests import append_manifest, manifest_ids
from streaming.storage.folder import Folder
from tests.support.outcomes import name_of, named
from tests.support.tenures import new_log
from tests.support.waiting import wait_until

_MODEL = ServedModel("model", "backbone", cast("Any", None), None)


class _Executors:
    """In place of Spark's: remembers what they were given, by the letters of the pictures."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def dedicate_thread(self) -> None:
        """Nothing to do."""

    def warm_up(self, model: ServedModel) -> None:
        self.done.append("")

    def featurize(self, pictures: pa.Table, model: ServedModel) -> pa.Table:
        self.done.append("".join(map(name_of, pictures.column("path").to_pylist())))
        return pictures.select(["path"])


@pytest.fixture
def log(output: Folder) -> ManifestLog:
    """An empty log."""
    return new_log(output)


@pytest.fixture
def executors() -> _Executors:
    """Idle executors."""
    return _Executors()


@pytest.fixture
def prefetch(log: ManifestLog, executors: _Executors) -> Iterator[Prefetch]:
    """One that has begun before there was a manifest."""
    models = cast("ModelSource", SimpleNamespace(current=lambda: _MODEL, refused=False))
    with closing(Prefetch(cast("Executors", executors), models, log)) as made:
        made.begin(None)
        yield made


def _featurize(prefetch: Prefetch, log: ManifestLog, manifest: str) -> str:
    done = prefetch.featurize(manifest, log.read(manifest))
    return "".join(map(name_of, done.outcomes.column("path").to_pylist()))


def test_work_begins_when_a_manifest_is_appended(
    prefetch: Prefetch, log: ManifestLog, executors: _Executors, output: Folder
) -> None:
    """Also the first one, and one that comes long after the former: each is done once, before it is asked for."""
    assert executors.done == [""]
    for nth, names in enumerate(("ab", "c", "de"), start=1):
        log.append(named(names))
        wait_until(lambda nth=nth: len(executors.done) > nth)  # type: ignore[misc]
        assert _featurize(prefetch, log, manifest_ids(output)[-1]) == names
    assert executors.done == ["", "ab", "c", "de"]


def test_a_wait_for_the_next_manifest_gives_way_to_the_one_that_is_asked_for(
    prefetch: Prefetch, log: ManifestLog, output: Folder
) -> None:
    """Spark may ask for an earlier manifest once more, or for one that another process has appended."""
    log.append(named("ab"))
    foreign = append_manifest(output, named("c"), datetime(2026, 1, 1, tzinfo=UTC))
    [_, ours] = manifest_ids(output)
    asked = [_featurize(prefetch, log, manifest) for manifest in (ours, foreign, ours, foreign)]
    assert asked == ["ab", "c", "ab", "c"]
    assert foreign < ours
    log.append(named("d"))
    assert _featurize(prefetch, log, manifest_ids(output)[-1]) == "d"
