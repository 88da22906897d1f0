"""A folder that traps its user at a chosen call: it dies there, or another works to its end meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Literal, TypeVar

from conf.errors import AppError
from streaming.storage.folder import Folder

When = Literal[
    "killed before", "killed after", "paused before", "paused after", "delivered late", "paused before any call"
]
WHENS: tuple[When, ...] = ("killed before", "killed after", "paused before", "paused after", "delivered late")
"""`delivered late`: its process is killed, and the network hands the write over when another has finished."""
ANY_CALL: When = "paused before any call"
"""Reads and listings count as well: what was seen before the pause may not be so any more after it."""

_Result = TypeVar("_Result")


class Killed(BaseException):
    """As by a signal."""


def _nothing() -> None:
    pass


class TrapFolder:
    """Passes everything on to a `Folder`, but for the nth write, or the nth call of any kind.

    Attributes:
        left: writes, or calls, until the trap; below 1 once it was reached.
    """

    def __init__(self, folder: Folder, nth: int, when: When, meanwhile: Callable[[], object] = _nothing) -> None:
        self._folder = folder
        self._when = when
        self._meanwhile = meanwhile
        self._lock = threading.Lock()
        self.left = nth

    def trap(self, nth: int, meanwhile: Callable[[], object] = _nothing) -> None:
        """Set the trap again, counting from now; 0 for none."""
        with self._lock:
            self.left, self._meanwhile = nth, meanwhile

    def _is_reached(self) -> bool:
        with self._lock:  # threads of the user share the folder
            self.left -= 1
            return self.left == 0

    def _read(self, read: Callable[[], _Result]) -> _Result:
        if self._when == ANY_CALL and self._is_reached():
            self._meanwhile()
        return read()

    def _write(self, write: Callable[[], str]) -> str:
        if not self._is_reached():
            return write()
        if self._when == "killed before":
            raise Killed
        if self._when in ("paused before", ANY_CALL):
            self._meanwhile()
            return write()
        if self._when == "delivered late":
            self._meanwhile()
            with suppress(AppError):
                write()
            raise Killed
        tag = write()
        if self._when == "killed after":
            raise Killed
        self._meanwhile()
        return tag

    def create(self, name: str, data: bytes) -> str:
        return self._write(lambda: self._folder.create(name, data))

    def replace(self, name: str, data: bytes, tag: str) -> str:
        return self._write(lambda: self._folder.replace(name, data, tag))

    def delete(self, name: str) -> None:
        def delete() -> str:
            self._folder.delete(name)
            return ""

        self._write(delete)

    @property
    def root(self) -> str:
        return self._folder.root

    def path(self, name: str) -> str:
        return self._folder.path(name)

    def with_timeout(self, seconds: float) -> Folder:
        return self

    def read(self, name: str) -> bytes:
        return self._read(lambda: self._folder.read(name))

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        return self._read(lambda: self._folder.read_tagged(name))

    def read_end(self, name: str, length: int) -> bytes:
        return self._read(lambda: self._folder.read_end(name, length))

    def exists(self, name: str) -> bool:
        return self._read(lambda: self._folder.exists(name))

    def names(self, prefix: str) -> Iterator[str]:
        return self._read(lambda: iter([*self._folder.names(prefix)]))

    def copy(self, name: str, to: str) -> None:
        self._folder.copy(name, to)

    def delete_all(self, names: Sequence[str]) -> None:
        for name in names:
            self.delete(name)

    def delete_tree(self, name: str) -> None:
        self.delete_all(list(self.names(name)))

    def remove_leftovers(self) -> None:
        self._folder.remove_leftovers()
