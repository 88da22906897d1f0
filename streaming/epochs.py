"""Checkpoint epochs: a fresh Spark checkpoint after a bounded number of manifests.

It owns CHECKPOINT/<epoch>/ and what may be read from Spark's own log in it; it must not know what a micro-batch does.
Spark's file source remembers each file that it ever saw. A new epoch forgets them, which is safe because a manifest
that is finished is known by its features file, not by Spark.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import suppress

from conf.errors import AlreadyExistsError, NotFoundError, OutputError
from streaming import known
from streaming.features.storage import spark_uri
from streaming.features.stored import Folder
from streaming.manifests import FOLDER, SUFFIX, forget_withdrawn, is_withdrawn, manifest_ids
from streaming.notice import Holding, hold_nothing
from streaming.sink import Sink

_OWNER = "output"
_BEGUN = "_begun"

_logger = logging.getLogger(__name__)


class Epochs:
    """The checkpoint of one output.

    Args:
        checkpoint: holds one folder per epoch, as a rule just one.
        output: the output that it belongs to.
        sink: knows which manifests are finished.
        hold: gives the denylist while the log is folded.

    Raises:
        OutputError: the checkpoint belongs to another output.
    """

    def __init__(self, checkpoint: Folder, output: Folder, sink: Sink, hold: Holding = hold_nothing) -> None:
        self._checkpoint = checkpoint
        self._output = output
        self._sink = sink
        self._hold = hold
        owner = output.root.encode()
        if not checkpoint.exists(_OWNER):
            checkpoint.create(_OWNER, owner)
        elif (other := checkpoint.read(_OWNER)) != owner:
            raise OutputError(
                f"{checkpoint.root} is the checkpoint of another output, {other.decode(errors='replace')}; "
                "give another --checkpoint, or delete it if that output was moved here: nothing is lost or repeated"
            )
        numbers = {name.partition("/")[0] for name in checkpoint.names("")}
        epochs = sorted(int(number) for number in numbers if number.isdigit())
        self._number = epochs[-1] if epochs else 1
        for former in epochs[:-1]:  # what a kill has left of it
            checkpoint.delete_tree(_name(former))

    @property
    def uri(self) -> str:
        """The present epoch's checkpoint, for Spark."""
        return spark_uri(self._checkpoint.path(self._name))

    @property
    def _name(self) -> str:
        return _name(self._number)

    def is_full(self, limit: int) -> bool:
        """Whether `limit` finished manifests or more are in the log."""
        return len(manifest_ids(self._output)) >= limit and len(self._finished()) >= limit

    def turn(self) -> None:
        """Fold the finished manifests and begin a fresh checkpoint. No query may be running."""
        finished = self._finished()
        with self._hold() as denylist:
            known.fold(self._output, finished, denylist)
        former = self._name
        with suppress(AlreadyExistsError):  # a store that failed afterwards
            self._checkpoint.create(f"{_name(self._number + 1)}/{_BEGUN}", b"")  # the former may be gone in part now
        self._checkpoint.delete_tree(former)
        self._number += 1
        forget_withdrawn(self._output)
        _logger.info("folded %d manifests; checkpoint epoch %s follows %s", len(finished), self._name, former)

    def _finished(self) -> list[str]:
        waiting = {*self._sink.unfinished()}
        return [manifest for manifest in manifest_ids(self._output) if manifest not in waiting]

    def lost(self) -> list[str]:
        """Manifests in the log whose features file is gone though Spark knows them for done: deleted by a hand."""
        commits = [name.rpartition("/")[2] for name in self._checkpoint.names(f"{self._name}/commits")]
        end = self._end_of(max((int(commit) for commit in commits if commit.isdigit()), default=-1))
        done = {manifest for number, manifest in self._log_of_source() if number <= end}
        return [manifest for manifest in self._sink.unfinished() if manifest in done]

    def check_missing(self, batch_id: int) -> None:
        """Tell whether a micro-batch may be without rows: its manifests were folded after they were finished.

        Raises:
            OutputError: a manifest was deleted by a hand before it was finished.
        """
        planned = self._manifests_of(batch_id)
        if not planned:
            raise OutputError(
                f"{self._checkpoint.root} does not say what micro-batch {batch_id} is; delete it and start again: "
                "nothing is lost or repeated"
            )
        for manifest in planned:
            if self._sink.is_committed(manifest) or known.is_folded(self._output, manifest):
                _logger.info("manifest %s is done already, and was folded", manifest)
            elif not is_withdrawn(self._output, manifest):
                raise OutputError(
                    f"manifest {manifest} is gone from {self._output.path(FOLDER)} before it was finished; delete the "
                    f"checkpoint {self._checkpoint.root} and start again: its pictures are found anew"
                )

    def _manifests_of(self, batch_id: int) -> list[str]:
        """What Spark planned as a micro-batch: one manifest, or more after a kill in between its own writes."""
        first, last = self._end_of(batch_id - 1) + 1, self._end_of(batch_id)
        return [manifest for number, manifest in self._log_of_source() if first <= number <= last]

    def _end_of(self, batch_id: int) -> int:
        """The last entry of the source's log in a micro-batch; -1 before the first."""
        try:
            lines = self._checkpoint.read(f"{self._name}/offsets/{batch_id}").decode().splitlines()
        except NotFoundError:
            return -1
        return int(json.loads(lines[-1])["logOffset"])

    def _log_of_source(self) -> Iterator[tuple[int, str]]:
        """Number and manifest of each entry that Spark's file source logged: a file each, every tenth with all before.

        The files before a compact one are deleted some time later, so an entry may come twice.
        """
        for name in self._checkpoint.names(f"{self._name}/sources/0"):
            file = name.rpartition("/")[2]
            if file.removesuffix(".compact").isdigit():
                for line in self._checkpoint.read(name).decode().splitlines()[1:]:
                    entry = json.loads(line)
                    yield entry["batchId"], str(entry["path"]).rpartition("/")[2].removesuffix(SUFFIX)


def _name(number: int) -> str:
    return f"{number:06d}"
