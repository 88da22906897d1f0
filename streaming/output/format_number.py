"""The number of an output's format, OUTPUT/_format.json: by it, a later version tells what an earlier one wrote.

It is written before anything but the lease, and raised by the first writer of a version with a higher one; from then
on, earlier versions that look for a number refuse the output. An output without it was begun before there were
numbers: its format is 1. docs/formats.md says what belongs to a format.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from pydantic import BaseModel, ConfigDict, PositiveInt

from conf import __version__
from conf.errors import AlreadyExistsError, ConflictError, OutputError, StorageError
from streaming.storage.documents import create_or_replace, read_document
from streaming.storage.folder import Folder
from streaming.storage.locations import is_on_s3

FORMAT = 2
"""The format that this version writes. It reads all up to this one."""

NAME = "_format.json"

_TRIED = "_format.tried"
_NO_TAG = f'"{"0" * 32}"'  # of no content


class _Number(BaseModel):
    model_config = ConfigDict(strict=True)  # more keys are a later version's business

    format: PositiveInt


def check_format(output: Folder) -> None:
    """Refuse an output that this version cannot read. One request, which others of the same output need not repeat.

    Raises:
        OutputError: it is of a later format, or its number cannot be read.
    """
    _read(output)


def begin_format(output: Folder) -> bool:
    """The same for who holds the lease and is about to write: the output gets this version's number, durably.

    Of two versions at once, the later one's stays.

    Returns:
        Whether the output had no number yet, so that it is new, or of before there were numbers.

    Raises:
        OutputError: as `check_format`.
        StorageError: the store does not keep the conditions of a write.
    """
    while True:
        number, tag = _read(output)
        if number == FORMAT:
            return False
        if tag is None and is_on_s3(output.root):
            _check_conditions(output)
        data = f"{_Number(format=FORMAT).model_dump_json()}\n".encode()
        try:
            create_or_replace(output, NAME, data, tag)
        except (AlreadyExistsError, ConflictError):
            continue
        return tag is None


def _check_conditions(output: Folder) -> None:
    """Refuse a store that takes every write: two programs at once would overwrite each other there.

    Raises:
        StorageError: it does. Some that speak the protocol of S3 ignore the conditions of a request.
    """
    with suppress(AlreadyExistsError):  # a start that was killed has left it
        output.create(_TRIED, b"1")
    for write in (partial(output.create, _TRIED, b"2"), partial(output.replace, _TRIED, b"2", _NO_TAG)):
        with suppress(AlreadyExistsError, ConflictError):
            write()
            raise StorageError(
                f"{output.root}: this store ignores the conditions If-None-Match and If-Match of a write, so that two "
                "programs would overwrite each other's files; choose a store that keeps them, as Amazon S3 does"
            )
    output.delete(_TRIED)


def _read(output: Folder) -> tuple[int, str | None]:
    """The number, and the tag of its file; 1 and None if there is no file."""
    found, tag = read_document(
        output,
        NAME,
        _Number,
        lambda why: OutputError(
            f"{output.path(NAME)} cannot be read: {why}; if it was changed by hand, restore it: "
            f'{{"format": {FORMAT}}} if only picture-features {__version__} or an earlier one has written here'
        ),
    )
    number = found.format if found else 1
    if number > FORMAT:
        raise OutputError(
            f"{output.root} has format {number}, and picture-features {__version__} reads formats up to {FORMAT}; "
            "use the version that wrote it or a later one, or choose another output"
        )
    return number, tag
