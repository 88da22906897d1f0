"""What an operator sees of a stream."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from conf.aws.connection import forget_clients
from conf.errors import UnhealthyError
from streaming.__main__ import main
from streaming.features.schema import FEATURES
from streaming.lease.holder import LEASE, Holder, Looked
from streaming.lease.lease import Lease
from streaming.operate.health import check_health
from streaming.operate.status import Counted, count_table, read_status
from streaming.output import manifests
from streaming.output.batch_report import BatchReport, read_batch_report
from streaming.output.tables import latest_files
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.parquet import as_parquet, read_footer
from tests.support.buckets import Bucket
from tests.support.servers import FaultyStore
from tests.support.small_table import commit
from tests.support.streams import Place, begin, replay, start

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _append(output: Folder, count: int, before: timedelta) -> str:
    pictures = [StoredPicture(f"/in/{before}{number}.jpg", 100, NOW) for number in range(count)]
    return manifests.append_manifest(output, pictures, NOW - before)


def _finish(output: Folder, manifest: str, report: BatchReport) -> None:
    data = as_parquet(FEATURES.empty_table(), report.as_footer())
    output.create(manifests.table_file("features", manifest), data)


def _lease(output: Folder, **changes: object) -> None:
    """A lease of a stream on another machine that looked 3 s ago and renewed it 2 s ago, but for `changes`."""
    fields: dict[str, object] = {
        "id": "one",
        "host": "elsewhere",
        "machine": "another",
        "pid": 1,
        "process_started": "1",
        "since": NOW - timedelta(hours=1),
        "renewed_at": NOW - timedelta(seconds=2),
        "expires_at": NOW + timedelta(seconds=28),
        "looked": Looked(at=NOW - timedelta(seconds=3), period=5, unsettled=0),
    }
    output.delete(LEASE)
    output.create(LEASE, Holder.model_validate(fields | changes).model_dump_json().encode())


_KILLED = {"renewed_at": NOW - timedelta(minutes=12), "expires_at": NOW - timedelta(minutes=11, seconds=30)}
_LOOKED_LONG_AGO = Looked(at=NOW - timedelta(minutes=12), period=5, unsettled=0)


def test_status_tells_what_is_outstanding_and_what_happened_of_late(output: Folder) -> None:
    """Rates are over the latest micro-batches; what is behind is the age of the oldest manifest that is not done."""
    manifests.prepare_log(output)
    for minutes, reasons in ((30, Counter(corrupt=2)), (20, Counter(corrupt=1, empty=1))):
        manifest = _append(output, 50, timedelta(minutes=minutes))
        _finish(output, manifest, BatchReport(manifest, 50, reasons, 0.5, 2.0, "v1", 0.07))
    _append(output, 7, timedelta(seconds=90))
    _append(output, 3, timedelta(seconds=10))
    _lease(output, looked=Looked(at=NOW - timedelta(seconds=3), period=5, unsettled=4))
    status = read_status(output, NOW)
    assert (status.unfinished_manifests, status.unfinished_pictures, status.unfinished_bytes) == (2, 10, 1000)
    assert (status.outstanding_pictures, status.seconds_behind, status.unsettled) == (10, 90, 4)
    assert status.last_batch_at == NOW - timedelta(minutes=20) + timedelta(seconds=2)
    assert (status.pictures, status.featurized_per_second, status.arrived_per_second) == (100, 100, 50 / 600)
    assert status.quarantined == {"corrupt": 3, "empty": 1}
    assert (status.model_version, status.drift, status.state) == ("v1", 0.07, "running")
    assert json.loads(status.as_json())["seconds_behind"] == 90
    text = status.as_text()
    assert "corrupt 3, empty 1" in text
    assert "10 pictures, 0.0 MiB; 4 more are still being written" in text
    assert "100 pictures in 2 micro-batches from 2026-01-31 11:30:00 UTC on, the last 20 min ago" in text
    assert "embeddings" not in text


def test_status_tells_how_large_the_embeddings_are(output: Folder) -> None:
    """They are most of an output."""
    begin(output)
    commit(output, 0, [f"/in/{number}.jpg" for number in range(300)], backbone="0123456789abcdef")
    status = read_status(output, NOW)
    assert status.embeddings.rows == 300
    [line] = [line for line in status.as_text().splitlines() if line.startswith("embeddings   300")]
    assert line.endswith(f"; stored in {status.embeddings.bytes / 2**20:.1f} MiB")
    assert 300 * 1280 * 2 < status.embeddings.bytes < 300 * 1280 * 5


def test_no_rate_changes_because_time_passes(output: Folder) -> None:
    """A day later the figures are those of the same micro-batches; of a single one there is no rate of arrival."""
    manifests.prepare_log(output)
    for minutes in (30, 20):
        manifest = _append(output, 50, timedelta(minutes=minutes))
        _finish(output, manifest, BatchReport(manifest, 50, Counter(), 0.5, 2.0, "v1", None))
        if minutes == 30:
            assert read_status(output, NOW).arrived_per_second is None
    now, later = (read_status(output, NOW + timedelta(days=days)) for days in (0, 1))
    assert now.arrived_per_second == 50 / 600
    assert (later.arrived_per_second, later.featurized_per_second) == (now.arrived_per_second, 100)


@pytest.mark.parametrize(
    ("changes", "known", "said"),
    [
        ({}, True, "behind       0.0s"),
        ({"looked": _LOOKED_LONG_AGO.model_copy(update={"period": 600})}, True, "behind       0.0s"),
        ({"looked": _LOOKED_LONG_AGO.model_copy(update={"period": None})}, True, "behind       0.0s"),
        ({"looked": _LOOKED_LONG_AGO}, False, "outstanding  unknown: last look 12 min ago; 0 pictures"),
        ({"looked": _LOOKED_LONG_AGO, **_KILLED}, False, "behind       unknown: last look 12 min ago"),
        ({"looked": _LOOKED_LONG_AGO, "released": True}, False, "behind       unknown: last look 12 min ago"),
        ({"looked": None}, False, "behind       unknown: no look yet"),
        ({"looked": None, "renewed_at": None, "machine": None}, False, "behind       unknown: no look yet"),
    ],
)
def test_what_nobody_has_looked_at_is_unknown(
    output: Folder, changes: dict[str, object], *, known: bool, said: str
) -> None:
    """A stream that runs, is stuck, takes long for a look, replays, was killed, stopped, starts, or is of old."""
    manifests.prepare_log(output)
    _lease(output, **changes)
    status = read_status(output, NOW)
    assert (status.outstanding_pictures, status.seconds_behind) == ((0, 0) if known else (None, None))
    assert said in status.as_text()


@pytest.mark.parametrize(
    ("changes", "waiting", "wrong"),
    [
        ({}, 0, None),
        ({}, 9, None),
        ({"released": True, **_KILLED}, 60, None),
        ({}, 11, "pictures that were found 11 min ago are not done"),
        ({"looked": _LOOKED_LONG_AGO}, 0, "last looked for pictures 12 min ago"),
        ({"looked": None, "since": NOW - timedelta(minutes=2)}, 0, None),
        ({"looked": None}, 0, "has not looked for pictures since it started 60 min ago"),
        (_KILLED, 0, r"died or cannot reach the output, its lease ran out 12 min ago: process 1 on elsewhere"),
        ({"released": True, "failure": "no room"}, 0, "the stream failed: no room"),
        (_KILLED, 11, "its lease ran out .*; pictures that were found 11 min ago are not done"),
    ],
)
def test_monitors_are_told_in_one_line_whether_a_stream_is_healthy(
    output: Folder, changes: dict[str, object], waiting: int, wrong: str | None
) -> None:
    """Whatever it is that is wrong, and all of it; one that was stopped as asked is not asked to be quick."""
    manifests.prepare_log(output)
    if waiting:
        _append(output, 1, timedelta(minutes=waiting))
    _lease(output, **changes)
    if wrong is None:
        assert "\n" not in check_health(output, NOW, timedelta(minutes=10)).as_text()
    else:
        with pytest.raises(UnhealthyError, match=wrong):
            check_health(output, NOW, timedelta(minutes=10))


def test_check_ends_with_an_exit_code_of_its_own(output: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """0 as long as the stream runs and its pictures are done in time."""
    manifests.prepare_log(output)
    asked = ["status", "--check", "--output", output.root, "--log-format", "text"]
    assert main(asked) == 8
    assert capsys.readouterr().err == f"error: {output.root}: no stream runs\n"
    with Lease(output, timedelta(minutes=1)) as lease:
        lease.note_look(Looked(at=datetime.now(UTC), period=5, unsettled=0))
        lease.renew()
        assert main(asked) == 0
        assert capsys.readouterr().out.startswith("healthy: process ")
        manifests.append_manifest(
            output, [StoredPicture("/in/a.jpg", 1, NOW)], datetime.now(UTC) - timedelta(minutes=3)
        )
        assert main(asked) == 0
        assert main([*asked, "--max-behind", "2min"]) == 8
        assert "are not done" in capsys.readouterr().err
        assert main([*asked, "--max-behind", "2"]) == 2


def test_a_file_that_is_deleted_meanwhile_is_passed_over(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a retry or `forget` does it between the listing and the reading."""
    begin(output)
    for number in range(3):
        commit(output, number, [f"/{number}.jpg"])
    now = datetime.now(UTC)
    assert read_status(output, now).recent == 3
    last = next(name for name in latest_files(output, now) if read_batch_report(read_footer(output, name)))

    def listed(folder: Folder, *more: Any) -> list[str]:
        names = [*latest_files(folder, *more)]
        output.delete(last)
        return names

    monkeypatch.setattr("streaming.operate.status.latest_files", listed)
    status = read_status(output, now)
    assert (status.recent, status.features.rows) == (2, 2)


def test_rows_are_counted_as_they_are(output: Folder) -> None:
    """By the files, so that what was retried or forgotten is counted right; a count that is not of all says so."""
    begin(output)
    now = datetime.now(UTC)
    assert [count_table(output, table, now) for table in ("features", "quarantine")] == [
        Counted(0, 0, 1, complete=True, since=f"{now:%Y-%m-%d}")
    ] * 2
    names = []
    # The last is older than the days that are listed one by one; the first, of a clock that was ahead, is later.
    for day in (-5, 1, 2, 40):
        rows = pa.table({"path": ["x"] * abs(day)}).replace_schema_metadata({"long": "x" * 20_000})  # so is its footer
        names.append(f"features/date={now - timedelta(days=day):%Y-%m-%d}/{day}.parquet")
        output.create(names[-1], as_parquet(rows))
    assert count_table(output, "features", now).rows == 48
    first = f"{now - timedelta(days=2):%Y-%m-%d}"
    assert str(count_table(output, "features", now, 3)) == f"at least 3 (the latest 3 files, from {first} on)"
    _, tag = output.read_tagged(names[0])
    output.replace(names[0], as_parquet(pa.table({"path": pa.array([], pa.string())})), tag)
    assert count_table(output, "features", now).rows == 43


def test_an_outage_is_told_in_one_line_soon(
    bucket: Bucket, store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attempt: of a store that refuses, and of one that does not answer."""
    with FaultyStore(store) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.address)
        for seconds, delay, refuse, said in ((20, 0, 1, "overloaded or failing"), (0.3, 1, 0, "does not answer")):
            monkeypatch.setattr("streaming.__main__._STATUS_SECONDS", seconds)
            faulty.delay, faulty.refuse = delay, refuse
            forget_clients()
            asked = ["status", "--output", bucket.uri("output"), "--log-format", "text"]
            assert main(asked) == 6  # an answer would be that it is empty
            [line] = capsys.readouterr().err.splitlines()
            assert line.startswith("error: s3://")
            assert said in line
        assert faulty.faults == 1


@pytest.mark.usefixtures("programs")
def test_a_killed_stream_is_succeeded_by_one_stream_and_status_tells_how_it_stands(
    place: Place, pictures: list[Path], wait_for: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The holder is named in both cases; of a stream that was stopped there is none."""
    asked = ["status", "--output", str(place.output)]
    assert main(asked) == 5
    assert "no stream has written here yet" in capsys.readouterr().err
    paths = place.put(*pictures[:3])
    process = start("streaming", place.arguments("run", "--interval", "100ms"))
    wait_for(lambda: place.has(paths))
    assert main(asked) == 0
    assert f"stream       process {process.pid} on" in capsys.readouterr().out
    wait_for(lambda: main([*asked, "--check"]) == 0 and "last look" in capsys.readouterr().out)
    process.kill()
    process.communicate()
    paths += place.put(*pictures[3:6])
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert f"stream       died: process {process.pid} on" in said
    assert "outstanding  unknown: last look " in said
    assert main([*asked, "--check"]) == 8
    assert f"the stream died: process {process.pid} on" in capsys.readouterr().err
    process = start("streaming", place.arguments("run", "--interval", "100ms", "--lease", "10s"))
    wait_for(lambda: place.has(paths))
    assert replay(place) == 5
    assert f"another stream writes to this output: process {process.pid} on" in capsys.readouterr().err
    paths += place.put(*pictures[6:9])
    wait_for(lambda: place.has(paths))
    wait_for(lambda: main([*asked, "--json"]) == 0 and json.loads(capsys.readouterr().out)["seconds_behind"] == 0)
    # Where the lease happens to run out meanwhile, stop says that, and there is no stream when it is asked again.
    ended = re.compile("stopped|no stream runs")
    wait_for(lambda: main(["stop", "--output", str(place.output)]) == 0 and ended.search(capsys.readouterr().out))
    process.communicate()
    assert main([*asked, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["pictures"], status["unfinished_pictures"]) == ("stopped", 9, 0)
    assert (status["features"]["rows"], status["outstanding_pictures"]) == (9, None)
    assert place.counted() == dict.fromkeys(paths, 1)
