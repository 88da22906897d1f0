"""Which processes have ended: whoever held the lease on this machine is succeeded at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from conf.errors import LeaseHeldError
from streaming.lease.holder import read_holder
from streaming.lease.lease import Lease
from streaming.lease.machine import started, this_machine
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.tenures import write_lease

LONG = timedelta(minutes=1)


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path))


def test_a_killed_holder_on_this_machine_is_succeeded_at_once(output: Folder) -> None:
    """Nobody waits for a process that is gone."""
    code = (
        "import os, sys; from datetime import timedelta; from streaming.lease.lease import Lease;"
        "from streaming.storage.locations import open_folder;"
        "Lease(open_folder(sys.argv[1]), timedelta(hours=1)).__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, output.root], check=False).returncode == -9
    present, _ = read_holder(output)
    assert present
    assert not present.released
    with Lease(output, LONG) as lease:
        lease.check()


def test_a_holder_that_was_killed_and_not_reaped_is_succeeded_at_once(output: Folder) -> None:
    """In a container without an init, nobody ever asks for its exit code."""
    command = [sys.executable, "-c", _HOLD, output.root]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdout.readline()
    with pytest.raises(LeaseHeldError):
        Lease(output, LONG).__enter__()
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # until it has ended, and without reaping it
    try:
        with Lease(output, LONG) as lease:
            lease.check()
    finally:
        holder.communicate()


def test_a_later_process_of_the_same_number_is_not_the_holder(output: Folder) -> None:
    """Process numbers are used again; the start time tells them apart."""
    write_lease(output, machine=this_machine(), pid=os.getpid(), process_started="another time")
    with Lease(output, LONG) as lease:
        lease.check()


@pytest.fixture
def namespaces() -> str:
    """The program that runs another as process 1, as containers do; this machine's name stays."""
    tried = subprocess.run([*_CONTAINER, "true"], capture_output=True, check=False)
    if tried.returncode:
        message = f"this test needs the right to make namespaces: {tried.stderr.decode().strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return "unshare"


_CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


_HOLD = (
    "import sys; from datetime import timedelta; from streaming.lease.lease import Lease;"
    "from streaming.storage.locations import open_folder;"
    "lease = Lease(open_folder(sys.argv[1]), timedelta(hours=1));"
    "lease.__enter__(); print(lease.holder, flush=True); sys.stdin.read()"
)


@pytest.mark.usefixtures("namespaces")
def test_two_containers_with_one_host_name_are_told_apart(output: Folder) -> None:
    """Both are process 1; the second is refused at once, and the first is not said to be dead."""
    command = [*_CONTAINER, sys.executable, "-c", _HOLD, output.root]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdin
    assert first.stdout
    assert first.stdout.readline().startswith(f"process 1 on {socket.gethostname()} ")
    second = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert "another stream writes to this output: process 1 on" in second.stderr, second
    with pytest.raises(LeaseHeldError):
        Lease(output, LONG).__enter__()
    holder, _ = read_holder(output)
    assert holder
    assert not holder.is_dead()
    first.communicate()


@pytest.mark.usefixtures("namespaces")
def test_who_cannot_see_a_process_does_not_take_it_for_dead() -> None:
    """A /proc of other numbers names no machine, and one that hides the processes of other users tells of none."""

    def said(expression: str, *command: str) -> str:
        code = f"from streaming.lease.machine import *; print({expression})"
        done = subprocess.run([*command, sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert said("this_machine()") == this_machine()
    assert said("this_machine()", "unshare", "--pid", "--fork") == "None"
    hide = 'mount -t proc -o hidepid=invisible,gid=65533 proc /proc && exec setpriv --bounding-set=-sys_ptrace "$@"'
    hidden = ("unshare", "--mount", "sh", "-c", hide, "sh")
    other = subprocess.Popen(["setpriv", "--reuid=65534", "--clear-groups", "cat"], stdin=subprocess.PIPE)
    try:
        asked = f"started({other.pid}), has_ended({other.pid}, {started(other.pid)!r}), has_ended(2**22, '1')"
        assert said(asked) == f"{started(other.pid)} False True"
        assert said(asked, *hidden) == "None False True"
    finally:
        other.communicate()
