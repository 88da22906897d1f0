"""What an operator sees of a stream."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streaming import manifests
from streaming.__main__ import main
from streaming.batch_report import BatchReport
from streaming.features.schema import FEATURES
from streaming.features.stored import Folder, StoredPicture
from streaming.status import read_status
from tests.streams import Place, start

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _append(output: Folder, count: int, before: timedelta) -> str:
    pictures = [StoredPicture(f"/in/{before}{number}.jpg", 100, NOW) for number in range(count)]
    return manifests.append_manifest(output, pictures, NOW - before)


def _finish(output: Folder, manifest: str, report: BatchReport) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(FEATURES.empty_table().replace_schema_metadata(report.as_metadata()), buffer)
    output.create(manifests.table_file("features", manifest), buffer.getvalue().to_pybytes())


def test_status_tells_what_is_outstanding_and_what_happened_of_late(output: Folder) -> None:
    """Rates are over the latest micro-batches; what is behind is the age of the oldest manifest that is not done."""
    manifests.prepare_log(output)
    for minutes, reasons in ((30, Counter(corrupt=2)), (20, Counter(corrupt=1, empty=1))):
        manifest = _append(output, 50, timedelta(minutes=minutes))
        _finish(output, manifest, BatchReport(manifest, 50, reasons, 0.5, 2.0, "v1", 0.07))
    _append(output, 7, timedelta(seconds=90))
    _append(output, 3, timedelta(seconds=10))
    status = read_status(output, NOW)
    assert (status.outstanding_manifests, status.outstanding_pictures, status.outstanding_bytes) == (2, 10, 1000)
    assert status.seconds_behind == 90
    assert status.last_batch_at == NOW - timedelta(minutes=20) + timedelta(seconds=2)
    assert (status.pictures, status.featurized_per_second, status.arrived_per_second) == (100, 100, 100 / 1800)
    assert status.quarantined == {"corrupt": 3, "empty": 1}
    assert (status.model_version, status.drift, status.stream) == ("v1", 0.07, None)
    assert json.loads(status.as_json())["seconds_behind"] == 90
    assert "corrupt 3, empty 1" in status.as_text()


def test_status_tells_a_stream_that_runs_from_one_that_died(
    place: Place, pictures: list[Path], wait_for: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The holder is named in both cases; of a stream that was stopped there is none."""
    asked = ["status", "--output", str(place.output)]
    assert main(asked) == 5
    assert "no stream has written here yet" in capsys.readouterr().err
    place.put(*pictures[:3])
    process = start("streaming", place.arguments("run", "--interval", "100ms"))
    wait_for(lambda: place.committed() == 1)
    assert main(asked) == 0
    assert f"stream       process {process.pid} on" in capsys.readouterr().out
    process.kill()
    process.communicate()
    assert main(asked) == 0
    assert f"stream       died: process {process.pid} on" in capsys.readouterr().out
    process = start("streaming", place.arguments("run", "--interval", "100ms"))
    wait_for(lambda: main(["stop", "--output", str(place.output)]) == 0 and "stopped" in capsys.readouterr().out)
    process.communicate()
    assert main([*asked, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["stream"], status["died"], status["pictures"], status["outstanding_pictures"]) == (None, None, 3, 0)
