"""Reads from CONTAINER_ID, which YARN sets, which attempt of which application this process belongs to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

# As ContainerId.toString writes it: the epoch is there once the ResourceManager was restarted.
_CONTAINER = re.compile(r"container_(?:e\d+_)?(\d+_\d+)_(\d+)_\d+")


@dataclass(frozen=True)
class Attempt:
    """An attempt of an application; YARN begins the next one when this one has failed.

    Attributes:
        application: as YARN names it, application_1700000000000_0001.
        number: from 1.
    """

    application: str
    number: int

    def follows(self, other: Attempt | None) -> bool:
        """Whether this is a later attempt of the same application."""
        return other is not None and self.application == other.application and self.number > other.number

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.application}"


def this_attempt() -> Attempt | None:
    """The attempt that this process belongs to; None outside of YARN."""
    container = _CONTAINER.fullmatch(os.environ.get("CONTAINER_ID", ""))
    return Attempt(f"application_{container[1]}", int(container[2])) if container else None
