"""Reads pictures, and tells a picture that cannot be read from a store or disk that cannot be read.

A read that succeeds has no extra cost. After a failed read, other pictures are read to see whether it is the picture or
the place that fails; `conf.failures` has the table of failures that leave this open. The read ends as a `Rejected`,
which is the outcome of this one picture, or as an error of the place, which names the picture.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import NoReturn

from conf.aws.connection import S3Connection
from conf.backoff import pauses
from conf.errors import AppError, InputError, StorageError, TransientError
from conf.failures import Meaning, meaning_of, said_of
from streaming.features.imaging import Rejected
from streaming.features.reasons import Reason
from streaming.storage.locations import drop_from_cache, is_inside, is_on_s3, list_folder, read_picture, subfolders

_TRIES = {Meaning.DENIED: 1, Meaning.DOUBTFUL: 2, Meaning.PASSING: 3}
_PAUSE = 1.0
_WAITED_FOR = (Meaning.PASSING, Meaning.OUTAGE)
_OF_THAT_ONE = (Meaning.GONE, Meaning.ARCHIVED, Meaning.OWN)
_REMEMBERED = 3
_PER_FOLDER = 3
_SUBFOLDERS = 6
_LISTED = 1000  # one page of S3


class PictureReader:
    """Reads pictures. Thread-safe.

    Args:
        limit: bytes; one more is read of a longer picture, so that the caller can tell.
        connection: to S3.
        source: canonical path of the input, in which other pictures are looked for; None for the same folder only.
    """

    def __init__(self, limit: int, connection: S3Connection, source: str | None) -> None:
        self._limit = limit
        self._connection = connection
        self._once = replace(connection, attempts=1)  # a store that needs retries counts as failing
        self._source = source
        self._disk = _disk_of(source)
        self._readable: deque[str] = deque(maxlen=_REMEMBERED)

    def __call__(self, path: str) -> bytes:
        """The first `limit` + 1 bytes of a picture.

        Raises:
            Rejected: this picture cannot be read, although others can.
            TransientError: no picture can be read at the moment.
            StorageError, InputError: no picture can be read: a permanent failure.
            MemoryError: there is not enough memory.
        """
        rests = pauses(_PAUSE)
        for tries in count(1):
            try:
                data = read_picture(path, self._limit, self._connection)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - any failure may be of this picture alone
                self._judge(path, error, tries)
                if meaning_of(error) is Meaning.PASSING:
                    time.sleep(next(rests))
            else:
                if data:
                    self._readable.append(path)
                return data
        raise AssertionError

    def others(self, path: str) -> list[str]:
        """Some other pictures, of which some can be read unless the place fails."""
        return [other for other in self._others(path, []) if other != path]

    def can_read(self, path: str) -> bool:
        """Whether the first byte of a picture can be read now."""
        return self._try(path) is None

    def _judge(self, path: str, error: Exception, tries: int) -> None:
        """Return if a failed read is to be repeated.

        Raises:
            AppError, Rejected: see `__call__`.
        """
        meaning, said = meaning_of(error), said_of(error)
        if meaning is Meaning.GONE:
            self._check_input(path)
            raise Rejected(Reason.VANISHED, "it disappeared between listing and reading")
        if meaning is Meaning.ARCHIVED:
            raise Rejected(Reason.ARCHIVED, "it is archived; retry it when it was restored")
        if meaning is not Meaning.OWN:
            if meaning in (Meaning.PLACE, Meaning.OUTAGE):
                _fail(path, error, meaning)
            if failures := self._probe(path):
                _fail(path, error, meaning, *failures)
            if tries < _TRIES[meaning]:
                return
        if meaning is Meaning.DENIED:
            raise Rejected(Reason.DENIED, f"reading it is not allowed ({said}); retry it when access was granted")
        raise Rejected(Reason.UNREADABLE, f"reading it failed, {tries} times of {tries}: {said}")

    def _check_input(self, path: str) -> None:
        source = self._source
        if source and not is_on_s3(source) and is_inside(path, source) and self._is_gone(source):
            raise InputError(f"{path}: cannot be read, because {source} is gone; check --input, and that it is mounted")

    def _is_gone(self, source: str) -> bool:
        """Whether the input is not there, or its disk is not, which has left an empty mount point."""
        disk = _disk_of(source)
        return disk is None or (disk != self._disk and not os.listdir(source))

    def _probe(self, path: str) -> Sequence[Meaning]:
        """The failures of reading other pictures; empty if one can be read.

        Empty, too, if the place can be listed and has no other picture to read.
        """
        failures: list[Meaning] = []
        read_before, tried = {*self._readable}, {path}
        try:
            for other in self._others(path, failures):
                if other in tried:
                    continue
                tried.add(other)
                if (failure := self._try(other)) is None:
                    return ()
                if failure not in _OF_THAT_ONE:
                    failures.append(failure)
                if failure in _WAITED_FOR and other in read_before:  # the store fails: more reads would only take time
                    break
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - of a listing, and as above
            failures.append(meaning_of(error))
        return failures

    def _try(self, other: str) -> Meaning | None:
        """Read one byte of another picture; returns the failure, if any, or that it is gone or empty."""
        try:
            drop_from_cache(other)
            data = read_picture(other, 0, self._once)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            return meaning_of(error)
        if not data:
            return Meaning.GONE  # it proves nothing: an empty file can be read without its disk
        self._readable.append(other)
        return None

    def _others(self, path: str, failures: list[Meaning]) -> Iterator[str]:
        """Other pictures: some that were read before, some in the same folder, and some from all over the input.

        Raises:
            AppError: S3 does not list them. A local folder that cannot be listed is added to `failures` instead.
        """
        yield from reversed(tuple(self._readable))
        beside = path.rpartition("/")[0] or "/"
        yield from _spread(self._listed(beside, failures, deep=False), _PER_FOLDER)
        source = self._source
        if not source or not is_inside(path, source):
            return
        inside = subfolders(source, lambda folder, why: None, self._once)
        yield from _spread(self._listed(source, failures, deep=inside is None), _PER_FOLDER)
        for folder in _spread(inside or (), _SUBFOLDERS):
            yield from [other for other in self._listed(folder, failures, deep=True) if other != path][:1]

    def _listed(self, folder: str, failures: list[Meaning], *, deep: bool) -> list[str]:
        def on_skip(skipped: str, why: str) -> None:
            if skipped == folder:
                failures.append(Meaning.DOUBTFUL)

        found = islice(list_folder(folder, on_skip, self._once, deep=deep), _LISTED)
        return [picture.path for picture in found]


def _disk_of(source: str | None) -> int | None:
    """The number of the disk of a local folder; None if there is no such folder."""
    if source is None or is_on_s3(source) or not os.path.isdir(source):
        return None
    return os.stat(source).st_dev


def _spread(found: Sequence[str], wanted: int) -> Sequence[str]:
    return found[:: max(1, len(found) // wanted)][:wanted]


def _fail(path: str, error: Exception, *meanings: Meaning) -> NoReturn:
    """Raise the failure of a picture's place: transient if any of `meanings` is, else permanent."""
    kind = TransientError if any(meaning in _WAITED_FOR for meaning in meanings) else StorageError
    said = str(error) if isinstance(error, AppError) else f"{path}: cannot be read: {said_of(error)}"
    others = "; no other picture can be read, either" if len(meanings) > 1 else ""
    raise kind(f"{said}{others}") from error
