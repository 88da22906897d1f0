"""A folder that traps its user at a chosen write: it dies there, or another works to its end meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Literal

from conf.errors import AppError
from streaming.storage.folder import Folder

When = Literal["killed before", "killed after", "paused before", "paused after", "delivered late"]
WHENS: tuple[When, ...] = ("killed before", "killed after", "paused before", "paused after", "delivered late")
"""`delivered late`: its process is killed, and the network hands the write over when another has finished."""


class Killed(BaseException):
    """As by a signal."""


def _nothing() -> None:
    pass


class TrapFolder:
    """Passes everything on to a `Folder`, but for the nth write.

    Attributes:
        left: writes until the trap; below 1 once it was reached.
    """

    def __init__(self, folder: Folder, nth: int, when: When, meanwhile: Callable[[], None] = _nothing) -> None:
        self._folder = folder
        self._when = when
        self._meanwhile = meanwhile
        self.left = nth

    def _write(self, write: Callable[[], str]) -> str:
        self.left -= 1
        if self.left != 0:
            return write()
        if self._when == "killed before":
            raise Killed
        if self._when == "paused before":
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
        return self._folder.read(name)

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        return self._folder.read_tagged(name)

    def read_end(self, name: str, length: int) -> bytes:
        return self._folder.read_end(name, length)

    def exists(self, name: str) -> bool:
        return self._folder.exists(name)

    def names(self, prefix: str) -> Iterator[str]:
        return self._folder.names(prefix)

    def copy(self, name: str, to: str) -> None:
        self._folder.copy(name, to)

    def delete_all(self, names: Sequence[str]) -> None:
        for name in names:
            self.delete(name)

    def delete_tree(self, name: str) -> None:
        self.delete_all(list(self.names(name)))

    def remove_leftovers(self) -> None:
        self._folder.remove_leftovers()
