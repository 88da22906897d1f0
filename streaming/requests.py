"""Requests: what others than the holder of the lease want to see in the manifest log.

It owns the files under OUTPUT/_requests and what becomes of them; it must not know who asks, and why. Only the holder
of the lease appends manifests. Everybody else leaves a request, which the holder turns into manifests once: when it is
killed in between, the pictures that it came to are known already.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from conf.errors import AlreadyExistsError, NotFoundError, OutputError
from streaming.features.stored import Folder, StoredPicture
from streaming.manifests import RETRY, decode, encode

FOLDER = "_requests"
SUFFIX = ".json"
_PAUSE_SECONDS = 10  # each look is a paid request on S3

_logger = logging.getLogger(__name__)


def create_request(output: Folder, pictures: Sequence[StoredPicture]) -> str:
    """Ask for pictures, durably, and return the request's id: a hash of its content, so asking twice is asking once."""
    data = encode(pictures)
    request = hashlib.sha256(data).hexdigest()[:32]
    with suppress(AlreadyExistsError):
        output.create(_name(request), data)
    return request


def request_ids(output: Folder) -> list[str]:
    """The ids of the requests that nobody has taken in yet."""
    return [request for request in all_ids(output) if not request.endswith(RETRY)]


def all_ids(output: Folder) -> list[str]:
    """The same, with those for pictures in quarantine: see `retries`."""
    names = output.names(FOLDER)
    return [name.removeprefix(f"{FOLDER}/").removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]


def read_request(output: Folder, request: str) -> list[StoredPicture]:
    """The pictures of a request.

    Raises:
        NotFoundError: it is gone.
        OutputError: its file is none that `create_request` wrote.
    """
    try:
        return decode(output.read(_name(request)))
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{output.path(_name(request))} is no request; delete it") from error


def delete_request(output: Folder, request: str) -> None:
    """Delete a request; one that is gone is no error."""
    output.delete(_name(request))


def _name(request: str) -> str:
    return f"{FOLDER}/{request}{SUFFIX}"


class Requests:
    """The requests to an output, for the holder of its lease.

    Args:
        output: has the requests.
        append_unknown: writes those that no manifest holds yet into manifests of at most so many, and counts them.
        take_in_retries: does with those for pictures in quarantine, by id, what is to be done, and counts the pictures.
    """

    def __init__(
        self,
        output: Folder,
        append_unknown: Callable[[Sequence[StoredPicture], int], int],
        take_in_retries: Callable[[Sequence[str]], int],
    ) -> None:
        self._output = output
        self._append_unknown = append_unknown
        self._take_in_retries = take_in_retries
        self._next_look = 0.0

    def are_pending(self) -> bool:
        """Whether there is any."""
        return bool(all_ids(self._output))

    def take_in(self, max_pictures: int) -> int:
        """Turn what is requested into manifests, of at most `max_pictures` each, and delete the requests.

        It may be called as often as one likes: it looks for requests once per 10 s.

        Returns:
            The number of pictures that were not known before, or are retried.
        """
        if time.monotonic() < self._next_look:
            return 0
        self._next_look = time.monotonic() + _PAUSE_SECONDS
        requests = all_ids(self._output)
        retried = self._take_in_retries([request for request in requests if request.endswith(RETRY)])
        return retried + sum(self._take(request, max_pictures) for request in requests if not request.endswith(RETRY))

    def _take(self, request: str, max_pictures: int) -> int:
        try:
            requested = {picture.identity: picture for picture in read_request(self._output, request)}
        except NotFoundError:  # withdrawn by a hand
            return 0
        new = self._append_unknown(list(requested.values()), max_pictures)
        delete_request(self._output, request)
        _logger.info("request %s: %d pictures, %d of them new", request, len(requested), new)
        return new
