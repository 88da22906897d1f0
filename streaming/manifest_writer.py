"""The one who appends to the manifest log.

It owns that a picture comes into the log once; it must not know how pictures are found.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from conf.errors import StorageError, TransientError
from streaming.features.stored import Folder, StoredPicture
from streaming.known import KnownPictures
from streaming.manifests import append_manifest
from streaming.requests import Requests

_ATTEMPTS = 100
_LONGEST_REST = 60.0

_logger = logging.getLogger(__name__)


class ManifestWriter:
    """Turns new pictures into manifests, and remembers them. Not thread-safe.

    Args:
        output: gets the manifests.
        known: what was seen; only this writer adds to it.
        may_append: called before each manifest; raises if this process has lost the right to write.

    Attributes:
        requests: what others asked for.
    """

    def __init__(self, output: Folder, known: KnownPictures, may_append: Callable[[], None]) -> None:
        self._output = output
        self._known = known
        self._may_append = may_append
        self.requests = Requests(output, self.append_unknown)

    def append_unknown(self, pictures: Sequence[StoredPicture], max_pictures: int) -> int:
        """Write those that no manifest holds yet into manifests of at most `max_pictures`; returns how many."""
        unknown = self.unknown(pictures)
        for start in range(0, len(unknown), max_pictures):
            self.append(unknown[start : start + max_pictures])
        return len(unknown)

    def unknown(self, pictures: Sequence[StoredPicture]) -> list[StoredPicture]:
        """Those that no manifest holds yet."""
        return self._known.unknown(pictures)

    def append(self, pictures: Sequence[StoredPicture]) -> None:
        """Write a manifest, durably; a store that fails for a while is waited for.

        Raises:
            StorageError: it cannot be written.
            LeaseLostError: the right to write was lost.
        """
        now = datetime.now(UTC)
        for attempt in itertools.count():
            try:
                self._may_append()
                append_manifest(self._output, pictures, now)
            except TransientError as error:
                # It may be there all the same, so no other may list these pictures: this one is tried until it is.
                if attempt == _ATTEMPTS:
                    raise StorageError(f"{error}; start again: what is in no manifest is found anew") from error
                rest = min(2.0**attempt, _LONGEST_REST)
                _logger.warning("cannot append a manifest, trying again in %gs: %s", rest, error)
                time.sleep(rest)
            else:
                break
        self._known.add(pictures)
