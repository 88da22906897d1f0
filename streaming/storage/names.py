"""Decides which entries of an input are pictures by their name; the same for listings, events, reconcile and fits.

A pattern has one of these forms, and matches whole names in any case:

- `*.tmp`: names of files, as `fnmatch` understands patterns;
- `@eaDir/`: names of folders, at any depth below the input; nothing in such a folder is a picture;
- `re:EXPRESSION`: names of files, by a regular expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:  # workers have no need of pydantic, which takes memory in each
    from conf.settings import StreamSettings

IGNORED = "is ignored by its name"
"""Why a listing leaves an entry out, as `OnSkip` is told, where `Names` decided it."""

_EXPRESSION = "re:"


@dataclass(frozen=True)
class Names:
    """The patterns of an input.

    Attributes:
        ignore: patterns of files and folders that are not pictures.
        include: patterns of files; if there are any, only files that match one are pictures.
    """

    ignore: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: StreamSettings) -> Self:
        """The patterns in the settings."""
        return cls(settings.ignore, settings.include)

    def ignores_folder(self, name: str) -> bool:
        """Whether nothing below a folder of this name is a picture."""
        return self._folders.matches(name)

    def ignores_file(self, name: str) -> bool:
        """Whether a file of this name is not a picture."""
        return self._files.matches(name)

    def includes(self, name: str) -> bool:
        """Whether a file of this name matches `include`, or `include` is empty."""
        return not self.include or self._included.matches(name)

    def takes(self, relative: str) -> bool:
        """Whether a path below the input is a picture's, by its folders and its file name."""
        folder, _, name = relative.rpartition("/")
        return not self.ignores_file(name) and self.includes(name) and not self._is_inside_ignored(folder)

    @cached_property
    def _is_inside_ignored(self) -> Callable[[str], bool]:
        """Whether a path of folders is ignored, cached because a listing has many files of one folder in a row."""
        return lru_cache(maxsize=1024)(lambda folder: any(map(self.ignores_folder, folder.split("/"))))

    @cached_property
    def _folders(self) -> _Matcher:
        return _Matcher([pattern[:-1] for pattern in self.ignore if pattern.endswith("/")])

    @cached_property
    def _files(self) -> _Matcher:
        return _Matcher([pattern for pattern in self.ignore if not pattern.endswith("/")])

    @cached_property
    def _included(self) -> _Matcher:
        return _Matcher(self.include)

    def __reduce__(self) -> tuple[type[Names], tuple[tuple[str, ...], tuple[str, ...]]]:
        return Names, (self.ignore, self.include)  # each process makes the rest for itself


ALL_NAMES = Names()
"""Takes every file."""


def explain_ignored(count: int) -> str:
    """The addition to a message that no picture was found, if names were ignored; else empty."""
    return f"; ignored by name: {count} (stream.ignore, stream.include)" if count else ""


class _Matcher:
    """Compiled patterns, as a listing may match a million names; suffixes and literal names need no regex."""

    def __init__(self, patterns: Sequence[str]) -> None:
        lower = [pattern.lower() for pattern in patterns if not pattern.startswith(_EXPRESSION)]
        self._names = frozenset(pattern for pattern in lower if _is_literal(pattern))
        self._ends = tuple(pattern[1:] for pattern in lower if pattern[:1] == "*" and _is_literal(pattern[1:]))
        self._starts = tuple(pattern[:-1] for pattern in lower if pattern[-1:] == "*" and _is_literal(pattern[:-1]))
        simple = {*self._names, *(f"*{end}" for end in self._ends), *(f"{start}*" for start in self._starts)}
        choices = [translate(pattern) for pattern in lower if pattern not in simple]
        choices += [pattern.removeprefix(_EXPRESSION) for pattern in patterns if pattern.startswith(_EXPRESSION)]
        together = "|".join(f"(?:{choice})" for choice in choices)
        self._others = re.compile(together or r"(?!)", re.IGNORECASE | re.DOTALL)

    def matches(self, name: str) -> bool:
        lower = name.lower()
        return (
            lower in self._names
            or lower.endswith(self._ends)
            or lower.startswith(self._starts)
            or bool(self._others.fullmatch(name))
        )


def _is_literal(pattern: str) -> bool:
    return not any(special in pattern for special in "*?[")
