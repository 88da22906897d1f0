"""The mark by which a holder is asked to stop reaches that one, and no other."""

from __future__ import annotations

import itertools
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conf.errors import NotFoundError
from streaming.__main__ import main
from streaming.lease.drain import request_drain, wait_until_gone
from streaming.lease.holder import LEASE
from streaming.lease.lease import DRAIN, Lease
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.tenures import write_lease
from tests.support.trap import ANY_CALL, TrapFolder

LONG = timedelta(minutes=1)


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path))


def test_who_lost_the_lease_leaves_the_next_ones_drain_mark(output: Folder) -> None:
    """Or a stream that was asked to stop would go on, and whoever asked wait for ever."""
    lease = Lease(output, LONG).__enter__()
    output.delete(LEASE)
    write_lease(output)
    request_drain(output)
    lease.__exit__(None, None, None)
    assert output.read(DRAIN) == b"other"


def test_a_holder_out_of_reach_stops_when_it_comes_back(output: Folder) -> None:
    """Whether it lives cannot be told: it is asked to stop, and not waited for."""
    write_lease(output, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    holder = request_drain(output)
    assert holder
    assert output.read(DRAIN) == b"other"
    assert not wait_until_gone(output, holder)


def test_a_drain_mark_reaches_the_holder_it_is_addressed_to(output: Folder) -> None:
    """A mark that an earlier stream never saw does not stop the next one."""
    assert request_drain(output) is None
    with Lease(output, LONG) as lease:
        assert not lease.drain_requested()
        assert request_drain(output) == lease.holder
        assert request_drain(output) == lease.holder
        assert lease.drain_requested()
    with Lease(output, LONG) as second:
        assert not second.drain_requested()
        assert request_drain(output) == second.holder
        assert second.drain_requested()


def test_stop_refuses_an_output_that_no_stream_has_begun_on(output: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name may be mistyped; but a stream that has just taken the lease is asked, too."""
    nowhere = output.path("nowhere")
    assert main(["stop", "--output", nowhere, "--log-format", "text"]) == 5
    assert capsys.readouterr().err == f"error: {nowhere}: no stream has written here yet; check --output\n"
    assert not Path(nowhere).exists()
    write_lease(output, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert main(["stop", "--output", output.root]) == 0
    assert output.read(DRAIN) == b"other"


@pytest.mark.parametrize("late", ["the holder", "who asked it to stop"])
def test_a_drain_mark_survives_whoever_comes_late(output: Folder, late: str) -> None:
    """At every call of the one or the other, a second stream takes over and is asked to stop: it has to hear of it."""
    for nth in itertools.count(1):
        with suppress(NotFoundError), Lease(output, LONG):
            pass
        trapped = TrapFolder(output, 0, ANY_CALL)
        first, second = Lease(trapped, LONG), Lease(output, LONG)
        first.__enter__()
        request_drain(output)

        def meanwhile(second: Lease = second) -> None:
            output.delete(LEASE)  # as if the first had run out
            second.__enter__()
            request_drain(output)

        trapped.trap(nth, meanwhile)
        if late == "the holder":
            first.__exit__(None, None, None)
        else:
            request_drain(trapped)
            trapped.trap(0)
            first.__exit__(None, None, None)
        if second.holder.renewed_at is None:  # the trap was not reached
            break
        assert second.drain_requested(), nth
        second.__exit__(None, None, None)
    assert nth > 1
