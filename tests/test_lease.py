"""The lease: one writer to an output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conf.errors import LeaseHeldError, LeaseLostError, StorageError, TransientError
from streaming.features.local import LocalFolder
from streaming.features.storage import open_folder
from streaming.features.stored import Folder
from streaming.lease import DRAIN, LEASE, Holder, Lease, read_holder, request_drain

LONG = timedelta(minutes=1)


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path))


def _write(output: Folder, **changes: object) -> None:
    """A lease of another machine, held for an hour, but for `changes`."""
    now = datetime.now(UTC)
    fields = {
        "id": "other",
        "host": "elsewhere",
        "pid": 1,
        "process_started": "1",
        "since": now,
        "expires_at": now + timedelta(hours=1),
    }
    output.create(LEASE, Holder.model_validate(fields | changes).model_dump_json().encode())


def test_a_second_stream_is_refused_and_told_by_whom(output: Folder) -> None:
    """The error names the process, and how to stop it."""
    with Lease(output, LONG), pytest.raises(LeaseHeldError, match=f"process {os.getpid()} on .*streaming stop"):
        Lease(output, LONG).__enter__()


def test_a_lease_that_was_given_back_is_free_at_once(output: Folder) -> None:
    """A clean stop makes room for the next start."""
    with Lease(output, LONG):
        pass
    with Lease(output, LONG) as second:
        second.check()


def test_a_killed_holder_on_this_machine_is_succeeded_at_once(output: Folder) -> None:
    """Nobody waits for a process that is gone."""
    code = (
        "import os, sys; from datetime import timedelta; from streaming.lease import Lease;"
        "from streaming.features.storage import open_folder;"
        "Lease(open_folder(sys.argv[1]), timedelta(hours=1)).__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, output.root], check=False).returncode == -9
    present, _ = read_holder(output)
    assert present
    assert not present.released
    with Lease(output, LONG) as lease:
        lease.check()


def test_a_later_process_of_the_same_number_is_not_the_holder(output: Folder) -> None:
    """Process numbers are used again; the start time tells them apart."""
    _write(output, host=os.uname().nodename, pid=os.getpid(), process_started="another time")
    with Lease(output, LONG) as lease:
        lease.check()


def test_a_holder_elsewhere_is_respected_until_its_lease_runs_out(output: Folder) -> None:
    """On another machine only time can tell."""
    _write(output)
    with pytest.raises(LeaseHeldError, match="on elsewhere"):
        Lease(output, LONG).__enter__()
    output.delete(LEASE)
    _write(output, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with Lease(output, LONG) as lease:
        lease.check()


@pytest.mark.parametrize(
    ("held_by", "taken_by", "taken"),
    [
        ("container_1700000000000_0007_01_000001", "container_1700000000000_0007_02_000001", True),
        ("container_e17_1700000000000_0007_01_000001", "container_e18_1700000000000_0007_02_000001", True),
        ("container_1700000000000_0007_02_000001", "container_1700000000000_0007_01_000001", False),
        ("container_1700000000000_0007_01_000001", "container_1700000000000_0008_02_000001", False),
        ("container_1700000000000_0007_01_000001", "", False),
        ("", "container_1700000000000_0007_02_000001", False),
    ],
)
def test_the_next_attempt_on_yarn_takes_over_at_once(
    output: Folder, monkeypatch: pytest.MonkeyPatch, held_by: str, taken_by: str, *, taken: bool
) -> None:
    """YARN begins it on any node, and only when the former one has failed; another application has to wait."""
    monkeypatch.setenv("CONTAINER_ID", held_by)
    with Lease(output, LONG) as first:
        held = first.holder.model_copy(update={"host": "elsewhere"})
    output.delete(LEASE)
    output.create(LEASE, held.model_dump_json().encode())
    monkeypatch.setenv("CONTAINER_ID", taken_by)
    if taken:
        with Lease(output, LONG) as second:
            second.check()
    else:
        with pytest.raises(LeaseHeldError, match="on elsewhere"):
            Lease(output, LONG).__enter__()


def test_a_lease_of_a_version_that_knew_nothing_of_yarn_is_understood(
    output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an update of the program the lease of the former one counts until it runs out."""
    monkeypatch.setenv("CONTAINER_ID", "container_1700000000000_0007_02_000001")
    _write(output)
    holder = json.loads(output.read(LEASE))
    del holder["attempt"]
    output.delete(LEASE)
    output.create(LEASE, json.dumps(holder).encode())
    with pytest.raises(LeaseHeldError, match="on elsewhere"):
        Lease(output, LONG).__enter__()


def test_a_holder_whose_lease_was_taken_is_told_and_leaves_it_alone(
    output: Folder, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """What was lost is not renewed, nor given back."""
    lease = Lease(output, timedelta(seconds=1))
    lease.__enter__()
    output.delete(LEASE)
    _write(output)

    def lost() -> bool:
        try:
            lease.check()
        except LeaseLostError:
            return True
        return False

    wait_for(lost)
    lease.__exit__(None, None, None)
    present, _ = read_holder(output)
    assert present
    assert (present.id, present.released) == ("other", False)


def test_a_lease_outlives_its_duration_while_it_is_renewed(
    output: Folder, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """The time in the file moves on."""
    with Lease(output, timedelta(seconds=1)) as lease:
        first = lease.holder.expires_at
        wait_for(lambda: datetime.now(UTC) > first)
        lease.check()


def test_a_renewal_that_hangs_is_no_renewal(
    output: Folder, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """Another may take over by what stands in the store; when it answers after all, work goes on."""
    answer, replace = threading.Event(), LocalFolder.replace

    def hang(folder: LocalFolder, name: str, data: bytes, tag: str) -> str:
        answer.wait(30)
        return replace(folder, name, data, tag)

    with Lease(output, timedelta(seconds=1)) as lease:
        monkeypatch.setattr(LocalFolder, "replace", hang)
        durable = lease.holder.expires_at
        wait_for(lambda: datetime.now(UTC) > durable)
        with pytest.raises(TransientError, match="the lease ran out while the store does not answer"):
            lease.check()
        answer.set()
        wait_for(lambda: lease.holder.expires_at > datetime.now(UTC))
        lease.check()


def test_a_drain_mark_reaches_the_holder_it_is_addressed_to(output: Folder) -> None:
    """A mark that an earlier stream never saw does not stop the next one."""
    assert request_drain(output) is None
    with Lease(output, LONG) as lease:
        assert not lease.drain_requested()
        assert request_drain(output) == lease.holder
        assert request_drain(output) == lease.holder
        assert lease.drain_requested()
    assert not output.exists(DRAIN)
    output.create(DRAIN, b"an earlier one")
    with Lease(output, LONG) as lease:
        assert not lease.drain_requested()


def test_a_damaged_lease_is_answered_in_one_line(output: Folder) -> None:
    """The line names the file and when it may be deleted."""
    output.create(LEASE, b"{")
    with pytest.raises(StorageError, match="_lease cannot be read; delete it if no stream is running"):
        Lease(output, LONG).__enter__()
