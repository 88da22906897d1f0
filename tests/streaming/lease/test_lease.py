"""The lease: one writer to an output."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from conf.aws.connection import S3Connection
from conf.errors import LeaseHeldError, LeaseLostError, StorageError, TransientError
from streaming.lease.holder import LEASE, Looked, read_holder
from streaming.lease.lease import Lease
from streaming.storage.folder import Folder
from streaming.storage.local_folder import LocalFolder
from streaming.storage.locations import open_folder
from tests.support.buckets import Bucket
from tests.support.servers import FaultyStore
from tests.support.tenures import write_lease

Wait = Callable[..., None]
LONG = timedelta(minutes=1)


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path))


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


def test_a_holder_elsewhere_is_respected_until_its_lease_runs_out(output: Folder) -> None:
    """On another machine only time can tell."""
    write_lease(output)
    with pytest.raises(LeaseHeldError, match="on elsewhere"):
        Lease(output, LONG).__enter__()
    output.delete(LEASE)
    write_lease(output, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with Lease(output, LONG) as lease:
        lease.check()


def test_a_holder_elsewhere_may_be_a_former_boot_of_this_machine(output: Folder) -> None:
    """So a start waits for the rest of its lease, rather than end as if another stream ran."""
    runs_out = datetime.now(UTC) + timedelta(seconds=1)
    write_lease(output, expires_at=runs_out)
    with Lease(output, LONG) as lease:
        assert datetime.now(UTC) >= runs_out
        lease.check()


def test_a_record_that_nobody_renews_for_its_duration_is_of_a_dead_holder(output: Folder) -> None:
    """After a power cut this machine's clock may be an hour behind until it is set: the record seems to last."""
    renewed = datetime.now(UTC) + timedelta(hours=1)
    write_lease(output, renewed_at=renewed, expires_at=renewed + timedelta(seconds=1))
    with Lease(output, LONG) as lease:
        lease.check()


def test_whoever_deletes_a_lease_is_not_taken_for_another_stream(output: Folder) -> None:
    with Lease(output, LONG) as lease:
        output.delete(LEASE)
        with pytest.raises(LeaseLostError, match="lost the right to write here: _lease was deleted; start again"):
            lease.confirm()


def test_a_holder_elsewhere_that_is_alive_is_known_by_its_renewal(
    output: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lease(output, expires_at=datetime.now(UTC) + LONG / 2)
    renewed = json.loads(output.read(LEASE)) | {"renewed_at": datetime.now(UTC).isoformat()}
    _, tag = output.read_tagged(LEASE)

    def renew_meanwhile(_seconds: float) -> None:
        output.replace(LEASE, json.dumps(renewed).encode(), tag)

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=renew_meanwhile)
    monkeypatch.setattr("streaming.lease.lease.time", clock)
    with pytest.raises(LeaseHeldError, match="on elsewhere"):
        Lease(output, LONG).__enter__()


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
        changes = {"id": "other", "host": "elsewhere", "machine": "another", "expires_at": datetime.now(UTC) + 2 * LONG}
        held = first.holder.model_copy(update=changes)
    output.delete(LEASE)
    output.create(LEASE, held.model_dump_json().encode())
    monkeypatch.setenv("CONTAINER_ID", taken_by)
    if taken:
        with Lease(output, LONG) as second:
            second.check()
    else:
        with pytest.raises(LeaseHeldError, match="on elsewhere"):
            Lease(output, LONG).__enter__()


@pytest.mark.parametrize("missing", [("attempt",), ("machine", "renewed_at", "failure", "looked")])
def test_a_lease_of_an_earlier_version_counts_until_it_runs_out(
    output: Folder, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    """After an update of the program: it tells no attempt, or no machine, and host and process say nothing."""
    monkeypatch.setenv("CONTAINER_ID", "container_1700000000000_0007_02_000001")
    write_lease(output, host=socket.gethostname(), pid=os.getpid(), process_started="another time")
    holder = json.loads(output.read(LEASE))
    for field in missing:
        del holder[field]
    output.delete(LEASE)
    output.create(LEASE, json.dumps(holder).encode())
    with pytest.raises(LeaseHeldError, match=f"on {socket.gethostname()}"):
        Lease(output, LONG).__enter__()


def test_a_holder_whose_lease_was_taken_is_told_and_leaves_it_alone(
    output: Folder, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """What was lost is not renewed, nor given back."""
    lease = Lease(output, timedelta(seconds=1))
    lease.__enter__()
    output.delete(LEASE)
    write_lease(output)

    def lost() -> bool:
        try:
            lease.check()
        except LeaseLostError:
            return True
        except TransientError:  # it ran out before the renewal that will tell
            return False
        return False

    wait_for(lost)
    lease.__exit__(None, None, None)
    present, _ = read_holder(output)
    assert present
    assert (present.id, present.released) == ("other", False)


def test_whoever_asks_the_store_knows_that_the_lease_was_taken_at_once(output: Folder) -> None:
    """By a stream whose clock is ahead, or by YARN's next attempt: our own clock does not tell before the renewal."""
    with Lease(output, LONG) as lease:
        lease.confirm()
        output.delete(LEASE)
        write_lease(output)
        lease.check()
        for ask in (lease.confirm, lease.check):
            with pytest.raises(LeaseLostError, match=r"process \d+ on .* took it; start again"):
                ask()
    present, _ = read_holder(output)
    assert present
    assert (present.id, present.released) == ("other", False)


def test_a_lease_outlives_its_duration_while_it_is_renewed(
    output: Folder, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """The time in the file moves on."""
    with Lease(output, timedelta(seconds=1)) as lease:
        first = lease.holder.expires_at
        wait_for(lambda: datetime.now(UTC) > first and _is_ours(lease))


class SlowFolder(LocalFolder):
    """Holds `replace` up for so many seconds, or lets it fail: after it is carried out, or before."""

    def __init__(self, root: str, *, after: bool) -> None:
        super().__init__(root)
        self.seconds = 0.0
        self.failure: StorageError | None = None
        self.replaced = 0
        self._after = after

    def replace(self, name: str, data: bytes, tag: str) -> str:
        if not self._after:
            self._hold_up()
        tag = super().replace(name, data, tag)
        if self._after:
            self._hold_up()
        self.replaced += 1
        return tag

    def _hold_up(self) -> None:
        time.sleep(self.seconds)  # the fault that was asked for
        if self.failure:
            raise self.failure


def _is_held(lease: Lease) -> bool:
    """Whether it is ours now; it must not be lost, and we must not believe more than what others may read."""
    before = datetime.now(UTC)
    try:
        lease.check()
    except TransientError:
        return False
    present, _ = read_holder(lease._output)
    assert present
    assert present.id == lease.holder.id
    assert before < present.expires_at
    return True


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("share", [0.7, 1.5])
def test_a_store_that_hangs_is_waited_for(tmp_path: Path, wait_for: Wait, share: float, *, after: bool) -> None:
    """Each renewal takes so great a share of the lease; what ran out meanwhile is ours again with the next answer."""
    output = SlowFolder(str(tmp_path), after=after)
    seen = set()
    with Lease(output, timedelta(seconds=0.4)) as lease:
        output.seconds = 0.4 * share

        def renewed() -> bool:
            seen.add(_is_held(lease))
            return output.replaced >= 2

        wait_for(renewed, every=0.005)
        assert (share < 1) in seen
        output.seconds = 0
        wait_for(lambda: _is_held(lease))
    present, _ = read_holder(output)
    assert present
    assert present.released


def test_a_store_on_s3_that_hangs_is_waited_for(
    bucket: Bucket, store: str, wait_for: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer takes two thirds of the lease. Requests that were given up arrive late, and change nothing."""
    monkeypatch.setattr("streaming.lease.lease._RELEASE_ATTEMPTS", 100)
    with FaultyStore(store) as faulty:
        output = open_folder(bucket.uri("output"), S3Connection(endpoint=faulty.address))
        with Lease(output, timedelta(seconds=1.2)) as lease:
            faulty.delay = 0.8
            wait_for(lambda: not _is_ours(lease))
            faulty.delay = 0
            wait_for(lambda: _is_ours(lease))
        present, _ = read_holder(output)
        assert present
        assert (present.id, present.released) == (lease.holder.id, True)


def _is_ours(lease: Lease) -> bool:
    try:
        lease.check()
    except StorageError:  # a lease that is lost is another matter
        return False
    return True


def test_an_answer_that_was_lost_is_no_loss(tmp_path: Path) -> None:
    """What stands in the store is ours, however the request ended that wrote it."""
    output = SlowFolder(str(tmp_path), after=True)
    with Lease(output, LONG) as lease:
        for failure in (TransientError("no answer"), StorageError("cannot sync")):
            output.failure = failure
            for _ in range(2):
                with pytest.raises(type(failure)):
                    lease.renew()
        output.failure = None
        lease.renew()
        lease.check()
    present, _ = read_holder(output)
    assert present
    assert present.released


@pytest.mark.parametrize("when", ["as it is taken", "as it is given back"])
def test_a_program_that_tries_again_after_an_outage_does_not_meet_itself(tmp_path: Path, when: str) -> None:
    """The store may hold a tenure of this very process that has ended: its program waits for the store, and goes on."""
    output = SlowFolder(str(tmp_path), after=when == "as it is taken")
    with Lease(output, LONG):
        pass

    def fail() -> None:
        with Lease(output, LONG):
            output.failure = TransientError("no answer")
            raise output.failure

    if when == "as it is taken":
        output.failure = TransientError("no answer")
    with pytest.raises(TransientError):
        fail()
    present, _ = read_holder(output)
    assert present
    assert not present.is_gone(datetime.now(UTC))
    output.failure = None
    with Lease(output, LONG) as lease:
        lease.check()
        with pytest.raises(LeaseHeldError):
            Lease(output, LONG).__enter__()


def test_a_permanent_failure_is_told_when_the_lease_has_run_out(tmp_path: Path, wait_for: Wait) -> None:
    """A disk that is full is not another stream."""
    output = SlowFolder(str(tmp_path), after=False)
    with Lease(output, timedelta(milliseconds=200)) as lease:
        output.failure = StorageError("the disk is full")

        def refused() -> bool:
            try:
                return not _is_held(lease)
            except StorageError as error:
                return "the disk is full" in str(error) and error.exit_code == 6

        wait_for(refused)
        output.failure = None
        wait_for(lambda: _is_ours(lease))


def test_a_clock_that_is_set_back_makes_no_lease_longer(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that is set forward lose it for good."""
    with Lease(output, timedelta(minutes=1)) as lease:
        for change in (timedelta(hours=-1), timedelta(hours=1)):

            class Clock(datetime):
                @classmethod
                def now(cls, tz: tzinfo | None = None, change: timedelta = change) -> Self:
                    return super().now(tz) + change

            with monkeypatch.context() as context:
                context.setattr("streaming.lease.lease.datetime", Clock)
                clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600)
                context.setattr("streaming.lease.lease.time", clock)
                with pytest.raises(TransientError, match="ran out"):
                    lease.check()
        lease.check()


def test_the_first_look_is_known_at_once_and_later_ones_with_the_renewals(output: Folder, wait_for: Wait) -> None:
    """So that looking costs no request."""

    def known() -> Looked | None:
        present, _ = read_holder(output)
        return present.looked if present else None

    first, second = (Looked(at=datetime.now(UTC), period=5, unsettled=number) for number in range(2))
    with Lease(output, LONG) as lease:
        lease.note_look(first)
        wait_for(lambda: known() == first)
        lease.note_look(second)
        lease.renew()
        assert known() == second


def test_the_end_of_a_tenure_is_told_with_its_error(output: Folder) -> None:
    """One that was stopped as asked has none."""
    for error, said in (
        (None, None),
        (StorageError("no bucket"), "no bucket"),
        (RuntimeError("a\nb"), "RuntimeError: a"),
        (KeyboardInterrupt("SIGTERM"), None),
    ):
        with suppress(StorageError, RuntimeError, KeyboardInterrupt), Lease(output, LONG):
            if error:
                raise error
        present, _ = read_holder(output)
        assert present
        assert (present.released, present.failure) == (True, said)


def test_a_damaged_lease_is_answered_in_one_line(output: Folder) -> None:
    """The line names the file and when it may be deleted."""
    output.create(LEASE, b"{")
    with pytest.raises(StorageError, match="_lease cannot be read; delete it if no stream is running"):
        Lease(output, LONG).__enter__()
