"""Checkpoint epochs, without Spark: nobody deletes the checkpoint that another works with."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from conf.errors import LeaseLostError, OutputError
from streaming.engine.checkpoint import Epochs
from streaming.features.schema import FEATURES, QUARANTINE
from streaming.operate.status import recent_reports
from streaming.output.decision import Decision, decide, is_decided
from streaming.output.manifests import append_manifest, manifest_name, prepare_log, table_file
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.outcomes import NOW, named
from tests.support.tenures import LooseTenure, LoseableLease
from tests.support.trap import ANY_CALL, TrapFolder

_COMMITS = "commits/0"


def _take_over(lease: LoseableLease, output: Folder, checkpoint: Folder) -> None:
    """Another takes the lease and starts; then Spark writes into the epoch that it goes on with."""
    lease.lost = True
    epochs = Epochs(LooseTenure(output), checkpoint)
    epochs.open()
    checkpoint.create(f"{epochs.uri.rpartition('/')[2]}/{_COMMITS}", b"")


@pytest.mark.parametrize("where", ["output", "checkpoint"])
def test_a_driver_that_wakes_in_a_turn_leaves_the_checkpoint_of_its_successor(tmp_path: Path, where: str) -> None:
    """Whatever call of the turn it was paused at: on the output, or on the checkpoint."""
    for nth in itertools.count(1):
        output, checkpoint = (open_folder(str(tmp_path / f"{nth}" / name)) for name in ("output", "checkpoint"))
        prepare_log(output)
        lease = LoseableLease()
        trapped = {"output": output, "checkpoint": checkpoint}
        trapped[where] = trap = TrapFolder(trapped[where], 0, ANY_CALL)
        epochs = Epochs(LooseTenure(trapped["output"], lease.check), trapped["checkpoint"])
        epochs.open()
        checkpoint.create("000001/metadata", b"{}")
        trap.trap(nth, partial(_take_over, lease, output, checkpoint))
        with suppress(LeaseLostError):
            epochs.turn()
        if not lease.lost:
            break
        assert any(name.endswith(_COMMITS) for name in checkpoint.names("")), nth
    assert nth > 3


def test_a_turn_that_was_not_finished_is_finished(output: Folder, tmp_path: Path) -> None:
    """By the next one of the same driver, and by the next start."""
    checkpoint = open_folder(str(tmp_path / "checkpoint"))
    prepare_log(output)
    epochs = Epochs(LooseTenure(output), checkpoint)
    epochs.open()
    checkpoint.create("000001/metadata", b"{}")
    checkpoint.create("000002/_begun", b"")
    epochs.turn()
    assert epochs.uri.endswith("/000002")
    assert not [*checkpoint.names("000001")]
    checkpoint.create("000003/_begun", b"")
    epochs = Epochs(LooseTenure(output), checkpoint)
    epochs.open()
    assert epochs.uri.endswith("/000003")
    assert not [*checkpoint.names("000002")]


def test_two_starts_at_the_same_moment_own_one_checkpoint(output: Folder, tmp_path: Path) -> None:
    """And the checkpoint of another output is refused all the same."""
    for nth in (1, 2):
        checkpoint = open_folder(str(tmp_path / str(nth)))
        other = Epochs(LooseTenure(output), checkpoint)
        Epochs(LooseTenure(output), TrapFolder(checkpoint, nth, ANY_CALL, other.open)).open()
        with pytest.raises(OutputError, match="is the checkpoint of another output"):
            Epochs(LooseTenure(open_folder(str(tmp_path))), checkpoint).open()


def test_a_manifest_without_pictures_is_done(output: Folder, tmp_path: Path) -> None:
    """Two runs of forget at once took the lines that each was asked for, and neither saw that none was left."""
    checkpoint = open_folder(str(tmp_path / "checkpoint"))
    prepare_log(output)
    epochs = Epochs(LooseTenure(output), checkpoint)
    epochs.open()
    manifest = append_manifest(output, [], NOW)
    entry = json.dumps({"batchId": 0, "path": output.path(manifest_name(manifest))})
    checkpoint.create("000001/sources/0/0", f"v1\n{entry}\n".encode())
    checkpoint.create("000001/offsets/0", b'v1\n{}\n{"logOffset":0}')
    epochs.check_missing(0)
    assert is_decided(output, manifest)
    assert not recent_reports(output, datetime.now(UTC), 10)  # its model is none that `status` could name
    output.delete(manifest_name(manifest))
    output.delete(table_file("features", manifest))
    with pytest.raises(OutputError, match=rf"manifest {manifest} is gone"):
        epochs.check_missing(0)


def _finish_manifest(output: Folder, name: str) -> None:
    manifest = append_manifest(output, named(name), NOW)
    decide(output, manifest, FEATURES.empty_table(), Decision.of(QUARANTINE.empty_table()), {})


def test_a_checkpoint_that_knows_nothing_of_finished_manifests_turns_at_once(output: Folder, tmp_path: Path) -> None:
    """Spark would make a micro-batch of each. A checkpoint with commits waits for its limit."""
    checkpoint = open_folder(str(tmp_path / "checkpoint"))
    prepare_log(output)
    epochs = Epochs(LooseTenure(output), checkpoint)
    epochs.open()
    append_manifest(output, named("a"), NOW)
    assert not epochs.is_full(2)
    _finish_manifest(output, "b")
    assert epochs.is_full(2)
    checkpoint.create(f"000001/{_COMMITS}", b"")
    assert not epochs.is_full(2)
    _finish_manifest(output, "c")
    assert epochs.is_full(2)


@pytest.mark.parametrize("name", ["metadata", "offsets/1", "commits/1", "sources/0/1", "sources/0/9.compact"])
@pytest.mark.parametrize("left", [b"", bytes(20)])
def test_a_checkpoint_that_a_power_cut_has_damaged_is_begun_anew(
    output: Folder, tmp_path: Path, name: str, left: bytes
) -> None:
    """Spark does not sync its files, and does not start with one that is empty, or has lost its content."""
    checkpoint = open_folder(str(tmp_path / "checkpoint"))
    for file in ("offsets/1", "commits/1", "sources/0/1", "sources/0/9.compact"):
        checkpoint.create(f"000001/{file}", b"v1\n")
    checkpoint.create("000001/metadata", b"{}")
    checkpoint.create("000001/offsets/.2.tmp", b"")  # of a kill, which Spark passes over
    epochs = Epochs(LooseTenure(output), checkpoint)
    epochs.open()
    assert epochs.uri.endswith("/000001")
    (tmp_path / "checkpoint/000001" / name).write_bytes(left)
    epochs.open()
    assert epochs.uri.endswith("/000002")
    assert not [*checkpoint.names("000001")]
    epochs.open()
    assert epochs.uri.endswith("/000002")
