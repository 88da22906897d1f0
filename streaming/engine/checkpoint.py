"""Checkpoint epochs: a fresh Spark checkpoint after a bounded number of manifests.

Each epoch is a folder CHECKPOINT/<epoch>/. Spark's file source remembers every file that it ever saw; a new epoch
forgets them, which is safe because the features file says that a manifest is finished, not Spark. Two questions are
answered from Spark's own log: which finished manifests have lost their features, and why a micro-batch is empty.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress

from conf.errors import AlreadyExistsError, NotFoundError, OutputError
from conf.plural import plural
from streaming.lease.tenure import Tenure
from streaming.output import known
from streaming.output.decision import is_decided
from streaming.output.manifests import FOUND_AGAIN, LOG_FOLDER, SUFFIX, manifest_ids, read_manifest
from streaming.output.recovery import finish_manifests
from streaming.output.tables import Tables, finished, unfinished
from streaming.storage.damaged import naming
from streaming.storage.folder import Folder
from streaming.storage.locations import spark_uri

_OWNER = "output"
_BEGUN = "_begun"

_logger = logging.getLogger(__name__)


class Epochs:
    """The checkpoint of one output.

    Args:
        tenure: of the output that it belongs to.
        checkpoint: holds one folder per epoch, as a rule just one.
    """

    def __init__(self, tenure: Tenure, checkpoint: Folder) -> None:
        self._tenure = tenure
        self._output = tenure.output
        self._checkpoint = checkpoint
        self._number = 1

    def open(self) -> None:
        """Go on from the latest epoch, and delete the remains of earlier ones that a kill has left.

        Raises:
            OutputError: the checkpoint belongs to another output.
        """
        checkpoint, owner = self._checkpoint, self._output.root.encode()
        try:
            checkpoint.create(_OWNER, owner)
        except AlreadyExistsError:
            if (other := checkpoint.read(_OWNER)) != owner:
                raise OutputError(
                    f"{checkpoint.root} is the checkpoint of another output, {other.decode(errors='replace')}; if that "
                    f"was moved to {self._output.root}, delete the folder {checkpoint.root}: nothing is lost or "
                    "repeated; otherwise give another --checkpoint"
                ) from None
        numbers = {name.partition("/")[0] for name in checkpoint.names("")}
        epochs = sorted(int(number) for number in numbers if number.isdigit())
        self._number = epochs[-1] if epochs else 1
        for former in epochs[:-1]:  # remains that a kill has left
            checkpoint.delete_tree(_name(former))
        if damaged := self._damaged():
            with self._tenure.writing():
                self._begin_next()
            _logger.warning(
                "%s is damaged, as by a power cut; checkpoint epoch %s follows, and nothing is lost or repeated",
                checkpoint.path(damaged),
                self._name,
            )

    def _damaged(self) -> str | None:
        """A file of the present epoch that does not begin as Spark begins it: Spark does not sync what it writes.

        A log begins with its version, like `v1`, and the metadata are JSON.
        """
        for name in self._checkpoint.names(self._name):
            start = b"v" if _is_of_log(name) else b"{" if name.endswith("/metadata") else b""
            if start and not self._checkpoint.read(name).startswith(start):
                return name
        return None

    @property
    def uri(self) -> str:
        """The present epoch's checkpoint, for Spark."""
        return spark_uri(self._checkpoint.path(self._name))

    @property
    def _name(self) -> str:
        return _name(self._number)

    def is_full(self, limit: int) -> bool:
        """Whether a query should start with a fresh checkpoint: `limit` finished manifests or more are in the log.

        With a checkpoint that knows nothing of them, any are too many, as Spark would make a micro-batch of each.
        """
        enough = limit if self._commits() else 1
        return len(manifest_ids(self._output)) >= enough and len(finished(self._output)) >= enough

    def turn(self) -> None:
        """Fold the finished manifests and begin a fresh checkpoint. No query may be running."""
        with self._tenure.writing() as denylist:
            # A former holder may have decided a manifest late, which no micro-batch of this process has met.
            folded = finish_manifests(self._output, denylist)
            known.fold(self._tenure, folded)
        former = self._name
        with self._tenure.writing():
            self._begin_next()
        _logger.info("folded %s; checkpoint epoch %s follows %s", plural(len(folded), "manifest"), self._name, former)

    def _begin_next(self) -> None:
        """Begin the next epoch, and delete the present one; the right to write is held."""
        with suppress(AlreadyExistsError):  # the store failed after this the last time: the former may be partial
            self._checkpoint.create(f"{_name(self._number + 1)}/{_BEGUN}", b"")
        # Whoever takes the lease after this finds the next epoch, and never works with the former.
        self._tenure.confirm()
        self._checkpoint.delete_tree(self._name)
        self._number += 1

    def lost(self) -> list[str]:
        """Manifests in the log that Spark has finished and whose features file is missing: it was deleted by hand."""
        commits = self._commits()
        if not commits:
            return []
        end = self._end_of(max(commits))
        done = {manifest for number, manifest in self._log_of_source() if number <= end}
        return [manifest for manifest in unfinished(self._output) if manifest in done]

    def _commits(self) -> list[int]:
        """The micro-batches that Spark has finished in this epoch."""
        names = (name.rpartition("/")[2] for name in self._checkpoint.names(f"{self._name}/commits"))
        return [int(name) for name in names if name.isdigit()]

    def check_missing(self, batch_id: int) -> None:
        """Check that a micro-batch without rows is one whose manifests were finished and folded, or list nothing.

        Raises:
            OutputError: a manifest was deleted by hand before it was finished.
        """
        planned = self._manifests_of(batch_id)
        if not planned:
            raise OutputError(f"{self._checkpoint.root} does not say what micro-batch {batch_id} is; {self._remedy}")
        for manifest in planned:
            if is_decided(self._output, manifest) or known.is_folded(self._output, manifest):
                _logger.info("manifest %s is done already, or withdrawn, and left the log", manifest)
            elif self._is_emptied(manifest):
                with self._tenure.writing():
                    Tables(self._output).commit_nothing(manifest)
                _logger.info("all pictures of manifest %s are forgotten", manifest)
            else:
                raise OutputError(
                    f"manifest {manifest} is gone from {self._output.path(LOG_FOLDER)} before it was finished; "
                    f"{self._remedy}: {FOUND_AGAIN}"
                )

    def _is_emptied(self, manifest: str) -> bool:
        """Whether a manifest is in the log and lists nothing: two runs of `forget` at once took what each asked for."""
        try:
            return not read_manifest(self._output, manifest)
        except NotFoundError:
            return False

    def _manifests_of(self, batch_id: int) -> list[str]:
        """The manifests that Spark planned as a micro-batch: one, or more after a kill between its own writes."""
        first, last = self._end_of(batch_id - 1) + 1, self._end_of(batch_id)
        return [manifest for number, manifest in self._log_of_source() if first <= number <= last]

    def _end_of(self, batch_id: int) -> int:
        """The last entry of the source's log in a micro-batch; -1 before the first."""
        try:
            lines = self._checkpoint.read(f"{self._name}/offsets/{batch_id}").decode().splitlines()
        except NotFoundError:
            return -1
        with self._naming(f"offsets/{batch_id}"):
            return int(json.loads(lines[-1])["logOffset"])

    @property
    def _remedy(self) -> str:
        """A temporary folder is gone when somebody reads this."""
        root = self._checkpoint.root
        return f"delete the checkpoint {root} if it is there, and start again: nothing is lost or repeated"

    def _naming(self, file: str) -> AbstractContextManager[None]:
        return naming(self._checkpoint.path(f"{self._name}/{file}"), self._remedy)

    def _log_of_source(self) -> Iterator[tuple[int, str]]:
        """Number and manifest of each entry that Spark's file source logged: a file each, some with all before.

        The files before such a compact one are deleted some time later, so an entry may come twice.
        """
        names = self._checkpoint.names(f"{self._name}/sources/0")
        files = (name for name in names if _is_of_log(name))
        for name in files:
            lines = self._checkpoint.read(name).decode().splitlines()[1:]
            with self._naming(name.removeprefix(f"{self._name}/")):
                entries = [json.loads(line) for line in lines]
                named = [(entry["batchId"], str(entry["path"]).rpartition("/")[2]) for entry in entries]
            yield from ((number, manifest.removesuffix(SUFFIX)) for number, manifest in named)


def _is_of_log(file: str) -> bool:
    """Whether a file is an entry of one of Spark's logs, or several; not one that was left unfinished."""
    return file.rpartition("/")[2].removesuffix(".compact").isdigit()


def _name(number: int) -> str:
    return f"{number:06d}"
