"""Derivatives: where else rows of an output went, so that what is erased there can be erased everywhere.

It owns the files under OUTPUT/_derivatives; it must not know how a derivative is made or changed. A program records
where it is about to write before it writes there, so that a killed one leaves nothing that nobody knows of.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from conf.errors import AlreadyExistsError, OutputError
from streaming.features.storage import resolve
from streaming.features.stored import Folder

FOLDER = "_derivatives"
_SUFFIX = ".json"

Kind = Literal["export", "models"]


@dataclass(frozen=True, order=True)
class Derivative:
    """A folder that holds what was made from an output's rows or pictures.

    Attributes:
        kind: `export` holds snapshots of the features, `models` is a registry.
        uri: canonical path of the folder.
    """

    kind: Kind
    uri: str


def record(output: Folder, derivative: Derivative) -> None:
    """Remember a derivative, durably; one that is recorded already is no error."""
    canonical = Derivative(derivative.kind, resolve(derivative.uri))
    with suppress(AlreadyExistsError):
        output.create(_name(canonical), f"{json.dumps(asdict(canonical))}\n".encode())


def derivatives(output: Folder) -> list[Derivative]:
    """All that are recorded, in order.

    Raises:
        OutputError: a file is none that `record` wrote.
    """
    return sorted(_read(output, name) for name in output.names(FOLDER) if name.endswith(_SUFFIX))


def _read(output: Folder, name: str) -> Derivative:
    try:
        derivative = Derivative(**json.loads(output.read(name)))
    except (ValueError, TypeError):
        derivative = None
    if derivative is None or derivative.kind not in get_args(Kind) or name != _name(derivative):
        raise OutputError(
            f"{output.path(name)} is no record of a derivative: if it was changed by hand, restore it; "
            "without it, nobody knows what to erase there"
        )
    return derivative


def _name(derivative: Derivative) -> str:
    digest = hashlib.sha256(f"{derivative.kind} {derivative.uri}".encode()).hexdigest()[:16]
    return f"{FOLDER}/{derivative.kind}-{digest}{_SUFFIX}"
