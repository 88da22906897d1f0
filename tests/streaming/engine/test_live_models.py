"""A running stream follows the registry: the next micro-batch has the model that is current then."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest

from streaming.features.backbone import backbone_id
from streaming.operate.status import read_status
from streaming.registry.bundle import BACKBONE
from streaming.registry.registry import Registry
from streaming.storage.locations import open_folder
from tests.support.backbones import at_side
from tests.support.streams import Place, end, replay, start

pytestmark = pytest.mark.usefixtures("programs")

Wait = Callable[[Callable[[], bool]], None]


def test_a_stream_changes_its_model_between_micro_batches_and_goes_back(
    place: Place, pictures: list[Path], wait_for: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promote and rollback reach a running stream with the next micro-batch; each batch has one model.

    So it is where the second sees pictures of 160 pixels. Where they are asked for, its log has the metrics of each. A
    CURRENT that is no JSON, or is gone, and a changed bundle keep the last good model in service: a stream that runs
    says what is wrong and goes on; one that starts refuses, naming the file.
    """
    registry = Registry(open_folder(str(place.models)))
    first = registry.current()
    run_with_metrics = place.arguments("run", "--interval", "100ms", "--log-format", "json")
    process = start("streaming", run_with_metrics, PICTURE_FEATURES_LOG__METRICS="emf")
    place.put(*pictures[:5])
    wait_for(lambda: place.committed() > 0 and len(place.rows()) == 5)
    backbone = registry.open(first).file(BACKBONE)
    small = at_side(backbone, 160)
    second = place.promote_another(2, small)
    place.put(*pictures[5:10])
    wait_for(lambda: len(place.rows()) == 10)
    registry.rollback()
    place.put(*pictures[10:15])
    wait_for(lambda: len(place.rows()) == 15)
    current = place.models / "CURRENT"
    good = current.read_bytes()
    for number, spoil in ((21, lambda: current.write_bytes(b"{")), (22, current.unlink)):
        spoil()
        place.put(pictures[number])
        wait_for(lambda rows=number - 5: len(place.rows()) == rows)  # type: ignore[misc]
    current.write_bytes(good)
    changed = place.promote_another(3)
    damaged = bytearray((place.models / changed / "backbone.tflite").read_bytes())
    damaged[-1000] ^= 1
    (place.models / changed / "backbone.tflite").write_bytes(damaged)
    place.put(*pictures[15:20])
    wait_for(lambda: len(place.rows()) == 22)
    process.send_signal(signal.SIGTERM)
    said = end(process)
    assert process.returncode == 0, said
    rows = place.rows().to_pandas()
    assert rows.groupby("processed_at")["model_version"].nunique().max() == 1
    assert {len(features) for features in rows[rows.model_version == second].features} == {4}
    backbones = {row["path"]: row["backbone"] for row in place.rows("embeddings").to_pylist()}
    versions = dict(zip(rows.path, rows.model_version, strict=True))
    ids = {first: backbone_id(backbone), second: backbone_id(small)}
    assert backbones == {path: ids[version] for path, version in versions.items()}
    documents = [json.loads(line) for line in said.splitlines() if '"_aws"' in line and '"idle"' not in line]
    assert {one["output"] for one in documents} == {str(place.output)}
    # Five pictures that arrive one after the other may be more than one micro-batch.
    in_turn = [
        (version, sum(one["Pictures"] for one in of_version))
        for version, of_version in groupby(documents, key=itemgetter("model_version"))
    ]
    assert in_turn == [(first, 5), (second, 5), (first, 12)]
    for why in (
        f"{current} cannot be read",
        f"no model in {place.models}",
        f"{place.models}/{changed} is not usable: backbone.tflite was changed",
    ):
        assert f"keeping model {first}: {why}" in said
    status = read_status(open_folder(str(place.output)), datetime.now(UTC))
    refused = sum(one["ModelRefused"] for one in documents)
    assert refused == said.count("keeping model") == status.model_refused >= 3

    place.put(*pictures[20:21])
    assert replay(place) == 4
    assert "backbone.tflite was changed; promote another version" in capsys.readouterr().err
