"""Counts the entries that discovery leaves out of the input, for `status`, and logs each once per output.

`OUTPUT/_discovery.json` keeps the counts, and salted hashes of the entries that were logged. It informs people only:
nothing is decided by it, and losing it does no harm.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conf.errors import StorageError
from conf.plural import plural
from streaming.storage.documents import create_or_replace, read_if_there
from streaming.storage.folder import Folder
from streaming.storage.names import IGNORED

FILE = "_discovery.json"
_MOST_TOLD = 1000
_EXAMPLES = 3
_SECONDS_BETWEEN_COUNTS = 60  # on S3 each time that they are written is a paid request

_logger = logging.getLogger(__name__)


class LeftOutRecord(BaseModel):
    """The content of `_discovery.json`.

    Attributes:
        ignored: number of files and folders that the latest look ignored by their names, and of events since.
        unusable: number of entries that could not be read, or are not files.
        salt: of the hashes.
        told: hashes of the entries that were logged and are still there, a bounded number.
    """

    model_config = ConfigDict(frozen=True)

    ignored: int = 0
    unusable: int = 0
    salt: str = Field(default_factory=lambda: secrets.token_hex(8), pattern="^[0-9a-f]{16}$")
    told: frozenset[str] = frozenset()


def read_left_out(output: Folder) -> LeftOutRecord:
    """The record of an output; zeros if the file is missing or damaged."""
    return _read(output)[0]


def _read(output: Folder) -> tuple[LeftOutRecord, str | None]:
    data, tag = read_if_there(output, FILE)
    try:
        return LeftOutRecord.model_validate_json(data or "{}"), tag
    except ValidationError:
        return LeftOutRecord(), tag


class LeftOut:
    """Counts and logs each entry that is left out; an `OnSkip`.

    Attributes:
        ignored: the present count, see `LeftOutRecord`.
    """

    def __init__(self, output: Folder) -> None:
        self._output = output
        self._saved, self._tag = _read(output)
        self._next_count = -math.inf
        self._told = set(self._saved.told)
        self._seen: set[str] = set()
        self._examples: list[str] = []
        self.ignored, self._unusable = self._saved.ignored, self._saved.unusable

    def begin_look(self) -> None:
        """Begin a new count; call it before the input is listed."""
        self.ignored = self._unusable = 0
        self._seen = set()
        self._examples = []

    def __call__(self, path: str, why: str) -> None:
        """Count an entry, and log a warning unless it was logged before."""
        if why == IGNORED:
            self.ignored += 1
            self._examples = [*self._examples, path][:_EXAMPLES]
            return
        self._unusable += 1
        if self._unusable <= _MOST_TOLD:
            self._warn("left out: %r %s", path, why)
        else:
            self._warn("left out: more than %d entries; the others are not named", _MOST_TOLD)

    def _warn(self, message: str, *values: object) -> None:
        key = bytes.fromhex(self._saved.salt)
        digest = hashlib.blake2b(repr((message, values)).encode(), digest_size=8, key=key).hexdigest()
        if digest not in self._told:
            self._told.add(digest)
            _logger.warning(message, *values)
        self._seen.add(digest)

    def end_look(self) -> None:
        """Finish a count, after the whole input was listed; forget entries that are no longer left out."""
        self._told = self._seen
        self._keep()

    def add_ignored(self, paths: Sequence[str]) -> None:
        """Count pictures of events that were ignored by their names."""
        if paths:
            self._examples = list(paths[:_EXAMPLES])
            self.ignored += len(paths)
            self._keep()

    def _keep(self) -> None:
        """Write the record if it has changed; if only counts have, at most once a minute."""
        told = frozenset(self._told)
        record = self._saved.model_copy(update={"ignored": self.ignored, "unusable": self._unusable, "told": told})
        first = bool(self.ignored) and not self._saved.ignored
        matters = first or told != self._saved.told or time.monotonic() >= self._next_count
        if record == self._saved or not matters:
            return
        data = record.model_dump_json().encode()
        try:
            self._tag = create_or_replace(self._output, FILE, data, self._tag)
        except StorageError as error:
            _logger.debug("%s was not written: %s", FILE, error)
            with suppress(StorageError):
                _, self._tag = _read(self._output)
            return
        self._saved, self._next_count = record, time.monotonic() + _SECONDS_BETWEEN_COUNTS
        if first:
            _logger.info(
                "ignored by name: %s, like %s (stream.ignore, stream.include); status counts them",
                plural(self.ignored, "file or folder", "files or folders"),
                ", ".join(map(repr, self._examples)),
            )
