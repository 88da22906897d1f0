"""Derivatives: the folders that got rows or pictures of an output, so that `forget` can erase them there, too.

Each is a file under OUTPUT/_derivatives. A program records a folder before it writes there, so that a killed program
leaves no folder that is not recorded.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from conf.errors import AlreadyExistsError, OutputError
from conf.uris import resolve
from streaming.storage.folder import Folder, files_ending

LINEAGE_FOLDER = "_derivatives"
_SUFFIX = ".json"

Kind = Literal["export", "models"]


@dataclass(frozen=True, order=True)
class Derivative:
    """A folder with data that was made from an output's rows or pictures.

    Attributes:
        kind: `export` holds snapshots of the features, `models` is a registry.
        uri: canonical path of the folder.
    """

    kind: Kind
    uri: str


def record(output: Folder, derivative: Derivative) -> None:
    """Record a derivative, durably; it may be recorded already."""
    canonical = Derivative(derivative.kind, resolve(derivative.uri))
    with suppress(AlreadyExistsError):
        output.create(_name(canonical), f"{json.dumps(asdict(canonical))}\n".encode())


def derivatives(output: Folder) -> list[Derivative]:
    """All recorded derivatives, in order.

    Raises:
        OutputError: a file was not written by `record`, or was changed.
    """
    return sorted(_read(output, name) for name in files_ending(output, LINEAGE_FOLDER, _SUFFIX))


def path_of(output: Folder, derivative: Derivative) -> str:
    """The canonical path of the file that records a derivative."""
    return output.path(_name(derivative))


def _read(output: Folder, name: str) -> Derivative:
    try:
        derivative = Derivative(**json.loads(output.read(name)))
    except (ValueError, TypeError):
        derivative = None
    if derivative is None or derivative.kind not in get_args(Kind) or name != _name(derivative):
        raise OutputError(
            f"{output.path(name)} does not name an export or a registry: if it was changed by hand, restore it; "
            "without it, forget does not know which folder to erase"
        )
    return derivative


def _name(derivative: Derivative) -> str:
    digest = hashlib.sha256(f"{derivative.kind} {derivative.uri}".encode()).hexdigest()[:16]
    return f"{LINEAGE_FOLDER}/{derivative.kind}-{digest}{_SUFFIX}"
