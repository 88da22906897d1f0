"""Featurizing in a child process that may die, so that what a picture does to it happens to no other picture.

It owns the child's life, its memory, and what is said of a picture that ended it; it must not know how a picture is
featurized. It is slower than a `Featurizer` by the start of the child, and reads nothing ahead.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import pyarrow as pa

from streaming.features.featurizer import Featurizer, Recipe, rejected
from streaming.features.schema import Reason

_ATTEMPTS = 2
_READY = "ready"


class ExpendableFeaturizer:
    """Featurizes picture by picture in a child, which is replaced when it dies. Close it, or use it with `with`.

    A picture that a child died of is tried once more in a fresh one before it is called `crashed` or `timeout`, because
    a child can also die of its node: of the out-of-memory killer, or of a neighbour that keeps the processor.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child:
            self._child.close()

    def __call__(self, pictures: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The outcomes of `schema.PICTURES`, `schema.OUTCOMES` in the same order, a batch for each picture.

        Raises:
            OSError: the store failed in a way that may pass.
            RuntimeError: no child lives long enough to begin.
        """
        for place in range(len(pictures)):
            yield self._featurize(pictures.take(pa.array([place])))

    def _featurize(self, picture: pa.RecordBatch) -> pa.RecordBatch:
        exit_code = 0
        for _ in range(_ATTEMPTS):
            self._child = self._child or _Child(self._recipe)
            try:
                return self._child.featurize(picture)
            except EOFError:
                exit_code, self._child = self._child.close(), None
        return rejected(picture, *_explain(exit_code, self._recipe))


def _explain(exit_code: int, recipe: Recipe) -> tuple[Reason, str]:
    if exit_code == -signal.SIGALRM:
        return Reason.TIMEOUT, f"it took longer than the {recipe.timeout:g}s of imaging.timeout, twice"
    if exit_code == errno.ENOMEM:
        return Reason.CRASHED, f"it needs more than {recipe.limits.memory >> 20} MiB of memory"
    if exit_code < 0:
        return Reason.CRASHED, f"the process that featurized it was ended by {signal.Signals(-exit_code).name}, twice"
    return Reason.CRASHED, f"the process that featurized it ended with exit code {exit_code}, twice"


class _Child:
    """One process. A dead one shows itself by `EOFError`."""

    def __init__(self, recipe: Recipe) -> None:
        # Neither a fork, which copies the locks of threads but not the threads, nor multiprocessing, whose children
        # import all of Spark's worker.
        self._connection, other_end = Pipe()
        with other_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(other_end.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[other_end.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        try:
            self._connection.send(recipe)
            self._connection.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"a child process to featurize in does not start: exit code {self.close()}") from None

    def featurize(self, picture: pa.RecordBatch) -> pa.RecordBatch:
        try:
            self._connection.send(picture)
            answer = self._connection.recv()
        except OSError:  # it died between two pictures
            raise EOFError from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> int:
        """Let it end; returns its exit code, which is the negative number of the signal that killed it."""
        self._connection.close()
        return self._process.wait()


def _serve(connection: Connection) -> None:
    """What the child does until the other end is closed, or is gone with its process."""
    recipe = connection.recv()
    featurizer = Featurizer(recipe)
    _limit_memory(recipe.limits.memory)
    connection.send(_READY)
    while True:
        try:
            picture = connection.recv()
        except EOFError:
            return
        try:
            answer = featurizer(picture)
        except MemoryError:
            os._exit(errno.ENOMEM)  # at once: what is left of the memory is not enough to end in order
        except Exception as error:  # noqa: BLE001 - the other end raises it
            answer = error
        connection.send(answer)


def _limit_memory(more: int) -> None:
    """Let this process take so many bytes more. Where there is no /proc, as on macOS, it may take all."""
    if sys.platform == "linux":
        import resource  # noqa: PLC0415 - where there is one

        data_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (data_pages * resource.getpagesize() + more, hard))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
