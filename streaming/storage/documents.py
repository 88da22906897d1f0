"""Files that several processes may change: each is read with its tag, and written if nobody else has done so.

It is separate from the folders because a worker that featurizes has no need of pydantic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from conf.errors import AppError, NotFoundError
from streaming.storage.folder import Folder

_Document = TypeVar("_Document", bound=BaseModel)


def read_if_there(folder: Folder, name: str) -> tuple[bytes | None, str | None]:
    """The content of a file and its tag; None and None if there is none."""
    try:
        return folder.read_tagged(name)
    except NotFoundError:
        return None, None


def read_document(
    folder: Folder, name: str, kind: type[_Document], unreadable: Callable[[str], AppError]
) -> tuple[_Document | None, str | None]:
    """A JSON document and its tag; None and None if there is none.

    Raises:
        AppError: it is not of this kind: what `unreadable` makes of the first thing that is wrong.
    """
    data, tag = read_if_there(folder, name)
    if data is None:
        return None, None
    try:
        return kind.model_validate_json(data), tag
    except ValidationError as error:
        raise unreadable(error.errors()[0]["msg"]) from error


def create_or_replace(folder: Folder, name: str, data: bytes, tag: str | None) -> str:
    """Create a file, or replace the content that has this tag; returns the new tag.

    Raises:
        AlreadyExistsError, ConflictError: another process has written it meanwhile.
    """
    return folder.create(name, data) if tag is None else folder.replace(name, data, tag)
