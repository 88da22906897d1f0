"""The one form of answers: what a verb did or found, as lines of a label and a value for people, or as JSON."""

from __future__ import annotations

import json
import os
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from pydantic import BaseModel

from conf import COMMAND
from conf.errors import StorageError

_WIDTH = 12

Row = tuple[str, object] | str
"""A label and its value; without a label it belongs to the row above. Text alone is a line of its own."""


@dataclass(frozen=True)
class Answer(ABC):
    """The base of frozen dataclasses that are answers. `conf.cli` prints them, as JSON where `--json` is given."""

    @abstractmethod
    def rows(self) -> Iterable[Row]:
        """The answer for people."""

    def next_step(self) -> str | None:
        """What to type next, in one line; None if nothing suggests itself."""
        return None

    def document(self) -> object:
        """The answer for programs: by default, an object with the attributes as keys."""
        return asdict(self)

    def as_text(self) -> str:
        """The rows, aligned, with what to type next at the end."""
        rows = [*self.rows()]
        if step := self.next_step():
            rows.append(("next", step))
        return "\n".join(row if isinstance(row, str) else f"{row[0]:<{_WIDTH}} {row[1]}" for row in rows)

    def as_json(self) -> str:
        """The document in one line; times are ISO 8601 in UTC."""
        return json.dumps(self.document(), default=_plain)


def command(*words: str) -> str:
    """A command to type, as a shell takes it: `command("streaming", "run")` is `python -m streaming run`.

    Who has typed `picture-features` is told to type that again: it may be the only one that is on the PATH.
    """
    if os.path.basename(sys.argv[0]) == COMMAND:
        return shlex.join((COMMAND, *words[1:]))
    return f"python -m {shlex.join(words)}"


def reading(path: str, how: str = "read_parquet") -> str:
    """A command that prints the table at a canonical path."""
    return f"python -c {shlex.quote(f'import pandas; print(pandas.{how}({json.dumps(path, ensure_ascii=False)}))')}"


def write_out(text: str) -> None:
    """Write an answer, or a part of it, to stdout at once.

    Raises:
        SystemExit: with 0, as the reader of stdout, like head, has seen enough.
        StorageError: stdout cannot take it.
    """
    if sys.stdout is None:  # it was closed before the start
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = None  # or Python complains when it flushes it at exit
        raise SystemExit(0) from None
    except OSError as error:
        sys.stdout = None
        raise StorageError(f"stdout cannot take the answer: {error.strerror}") from error


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return value.isoformat()  # type: ignore[attr-defined] # a date or time; all else is an error
