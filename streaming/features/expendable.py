"""Featurizes in an isolated child process, so that a picture that crashes or hangs it does not affect other pictures.

Slower than a `Featurizer` by the start of the child, and without reading ahead.
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
from streaming.features.reasons import Reason

NO_MEMORY_FOR_A_THREAD = 127
"""Exit code of a process that glibc's loader ended: a thread of a codec's own, as libde265 has one, had no memory for
its variables. No exception comes of it. (A library that lacks a symbol ends with this code, too.)"""

_ATTEMPTS = 2
_LONGEST_END = 10.0
"""Seconds; no reply is awaited at the end."""
_READY = "ready"


class ExpendableFeaturizer:
    """Featurizes picture by picture in an isolated process, which is replaced when it dies. Use it with `with`.

    A picture whose process died is retried once in a fresh one before it is rejected as `crashed` or `timeout`, because
    the node can also be the cause: its out-of-memory killer, or a neighbour that keeps the processor.
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
            StorageError, InputError: as a `Featurizer`.
            RuntimeError: a child process does not start.
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
    if exit_code == NO_MEMORY_FOR_A_THREAD:
        likely = f"most likely it needs more than {recipe.limits.memory >> 20} MiB of memory"
        return Reason.CRASHED, f"glibc ended the process that featurized it with exit code {exit_code}, twice: {likely}"
    if exit_code < 0:
        return Reason.CRASHED, f"the process that featurized it was ended by {signal.Signals(-exit_code).name}, twice"
    return Reason.CRASHED, f"the process that featurized it ended with exit code {exit_code}, twice"


class _Child:
    """One child process; its methods raise `EOFError` when it has died."""

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
            raise RuntimeError(f"an isolated process to featurize in did not start: exit code {self.close()}") from None

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
        """Let the process end; returns its exit code, or the negative number of the signal that killed it."""
        self._connection.close()
        try:
            return self._process.wait(_LONGEST_END)
        except subprocess.TimeoutExpired:  # it is stopped, or waits for a file server in the kernel
            self._process.kill()
            return -signal.SIGKILL


def _serve(connection: Connection) -> None:
    """The main loop of the child, until the other end is closed or its process has ended."""
    recipe = connection.recv()
    featurizer = Featurizer(recipe)
    _limit_memory(recipe.limits.memory)
    connection.send(_READY)
    while True:
        try:
            picture = connection.recv()
        except EOFError:
            os._exit(0)  # an orderly end would wait for threads whose reads do not end
        try:
            answer = featurizer(picture)
        except MemoryError:
            os._exit(errno.ENOMEM)  # at once: an orderly end needs more memory than is left
        except Exception as error:  # noqa: BLE001 - the other end raises it
            answer = error
        connection.send(answer)


def _limit_memory(more: int) -> None:
    """Limit this process to `more` additional bytes of memory; without /proc, as on macOS, there is no limit."""
    if sys.platform == "linux":
        import resource  # noqa: PLC0415 - where there is one

        data_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (data_pages * resource.getpagesize() + more, hard))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
