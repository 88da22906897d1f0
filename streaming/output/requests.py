"""Requests: the pictures that other processes ask the holder of the lease to append to the manifest log.

Only the holder appends manifests. Others leave a file under OUTPUT/_requests, which the holder turns into manifests
once: after a kill in between, the pictures that are in manifests already are known and are skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress

from conf.errors import AlreadyExistsError, OutputError
from streaming.output.manifests import RETRY, from_json_lines, to_json_lines
from streaming.storage.folder import Folder, StoredPicture, files_ending

REQUESTS_FOLDER = "_requests"
_SUFFIX = ".json"
_WITHDRAWN = "-withdrawn"


def create_request(output: Folder, pictures: Sequence[StoredPicture]) -> str:
    """Ask for pictures, durably, and return the request's id: a hash of its content, so asking twice is asking once."""
    data = to_json_lines(pictures)
    request = hashlib.sha256(data).hexdigest()[:32]
    with suppress(AlreadyExistsError):
        output.create(request_file(request), data)
    return request


def announce_withdrawal(output: Folder, manifest: str, pictures: Sequence[StoredPicture]) -> None:
    """Ask for the pictures of a manifest, durably, before it is withdrawn.

    The request's id names the manifest. Whoever takes the lease, and finds it, withdraws the manifest, too.
    """
    with suppress(AlreadyExistsError):
        output.create(request_file(f"{manifest}{_WITHDRAWN}"), to_json_lines(pictures))


def announced_withdrawals(output: Folder) -> list[str]:
    """The manifests that are to be withdrawn, or were, and whose pictures are requested."""
    return [request.removesuffix(_WITHDRAWN) for request in all_ids(output) if request.endswith(_WITHDRAWN)]


def request_ids(output: Folder) -> list[str]:
    """The ids of the requests that are not taken in yet."""
    return [request for request in all_ids(output) if not request.endswith(RETRY)]


def all_ids(output: Folder) -> list[str]:
    """The ids of all requests, with those for pictures in quarantine: see `retries`."""
    names = files_ending(output, REQUESTS_FOLDER, _SUFFIX)
    return [name.removeprefix(f"{REQUESTS_FOLDER}/").removesuffix(_SUFFIX) for name in names]


def read_request(output: Folder, request: str) -> list[StoredPicture]:
    """The pictures of a request.

    Raises:
        NotFoundError: it is gone.
        OutputError: its file was not written by `create_request`.
    """
    try:
        return from_json_lines(output.read(request_file(request)))
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{output.path(request_file(request))} is not a request; delete it") from error


def delete_request(output: Folder, request: str) -> None:
    """Delete a request; it may be gone already."""
    output.delete(request_file(request))


def request_file(request: str) -> str:
    """The name of the file of a request or a retry."""
    return f"{REQUESTS_FOLDER}/{request}{_SUFFIX}"
