"""Pictures and folders in S3, or in a store that speaks its protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from botocore.exceptions import ClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

from conf.aws.connection import S3Connection
from conf.aws.errors import Explainer, answer_of
from conf.backoff import pauses
from conf.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError, TransientError
from conf.failures import Meaning, code_of, meaning_of
from streaming.storage.folder import StoredPicture

_PREFIX = "s3://"
_MISSING = frozenset(("NoSuchKey", "404", "NotFound"))
_CHANGED = frozenset(("PreconditionFailed", "412"))
_REMEDIES = {
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"),
        "the bucket is in another region; set s3.region or AWS_REGION to the bucket's",
    ),
    "NoSuchBucket": "there is no such bucket; check the name, and s3.endpoint if it is not on AWS",
}
_PAGES_OF_SUBFOLDERS = 10
_KEYS_PER_REQUEST = 1000
_ONE_LEVEL = {"Delimiter": "/"}
_BROKEN_OFF = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
_explained = Explainer("the store", _REMEDIES).explained


@contextmanager
def _existing(path: str, permission: str) -> Iterator[None]:
    """As `_explained`, for a request to an object.

    Raises:
        NotFoundError: there is none.
    """
    try:
        with _explained(path, permission):
            yield
    except StorageError as error:
        if isinstance(error.__cause__, ClientError) and code_of(error.__cause__) in _MISSING:
            raise NotFoundError(f"{path}: there is no such object") from None
        raise


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.removeprefix(_PREFIX).partition("/")
    return bucket, key


def list_pictures(folder: str, connection: S3Connection, *, deep: bool = True) -> Iterator[StoredPicture]:
    """All objects in a folder, and if `deep` below it, by key; one request per 1,000 keys and no other.

    Raises:
        StorageError: the prefix cannot be listed.
        TransientError: the store failed.
    """
    bucket, _ = _split(folder)
    for page in _pages(folder, connection, {} if deep else _ONE_LEVEL):
        for entry in page.get("Contents", ()):
            if entry["Key"].endswith("/") and not entry["Size"]:
                continue  # created by consoles to show an empty folder
            yield _listed(bucket, entry)


def _listed(bucket: str, entry: Mapping[str, Any]) -> StoredPicture:
    return StoredPicture(
        path=f"{_PREFIX}{bucket}/{entry['Key']}",
        length=entry["Size"],
        modification_time=entry["LastModified"],
        etag=entry["ETag"].strip('"'),  # as events give it
    )


def subfolders(folder: str, connection: S3Connection) -> list[str] | None:
    """The folders directly inside one; None if more than a few requests would be needed to find them."""
    bucket, _ = _split(folder)
    found: list[str] = []
    for number, page in enumerate(_pages(folder, connection, _ONE_LEVEL), start=1):
        found += [f"{_PREFIX}{bucket}/{entry['Prefix'][:-1]}" for entry in page.get("CommonPrefixes", ())]
        if number == _PAGES_OF_SUBFOLDERS and page["IsTruncated"]:
            return None
    return found


def _pages(folder: str, connection: S3Connection, options: dict[str, str]) -> Iterator[dict[str, Any]]:
    # The slash is added to the whole path: "s3://b" is the bucket, "s3://b/" the folder without a name inside it.
    bucket, prefix = _split(f"{folder}/")
    paginator = connection.client().get_paginator("list_objects_v2")
    with _explained(folder, f"s3:ListBucket on {bucket}"):
        yield from paginator.paginate(Bucket=bucket, Prefix=prefix, **options)


def look_up(path: str, connection: S3Connection) -> StoredPicture | None:
    """See `locations.look_up`; one request, or two where the object itself may not be examined."""
    bucket, key = _split(path)
    try:
        with _explained(path, f"s3:GetObject on {bucket}"):
            answer = connection.client().head_object(Bucket=bucket, Key=key)
    except StorageError as error:
        return None if meaning_of(error) is Meaning.GONE else _look_up_in_listing(path, connection)
    return StoredPicture(path, answer["ContentLength"], answer["LastModified"], answer["ETag"].strip('"'))


def _look_up_in_listing(path: str, connection: S3Connection) -> StoredPicture | None:
    """`look_up` by listing, without a request to the object itself."""
    bucket, key = _split(path)
    try:
        with _explained(path, f"s3:ListBucket on {bucket}"):
            answer = connection.client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    except TransientError:
        raise
    except StorageError:
        return None
    # A key sorts before all longer keys that begin with it.
    return next((_listed(bucket, entry) for entry in answer.get("Contents", ()) if entry["Key"] == key), None)


def read_picture(path: str, limit: int, connection: S3Connection) -> bytes:
    """See `locations.read_picture`; one request."""
    bucket, key = _split(path)
    try:
        with _explained(path, f"s3:GetObject on {bucket}"):
            return _get(connection, bucket, key, limit + 1)[0]
    except StorageError as error:
        if meaning_of(error) is Meaning.GONE:
            raise NotFoundError(f"{path}: it was there when the input was listed, and is gone") from error.__cause__
        raise


def _get(
    connection: S3Connection, bucket: str, key: str, count: int | None = None, options: Mapping[str, str] | None = None
) -> tuple[bytes, str]:
    """The first `count` bytes of an object, and its tag; `options` go with the request.

    A response that breaks off in the middle is requested again; boto3 retries earlier failures.
    """
    for attempt, pause in enumerate(pauses(1, 20), start=1):
        answer = connection.client().get_object(Bucket=bucket, Key=key, **(options or {}))
        length = answer["ContentLength"]
        expected = length if count is None else min(count, length)
        try:
            with closing(answer["Body"]) as body:
                data = bytes(body.read(count))
            if len(data) < expected:
                raise IncompleteReadError(actual_bytes=len(data), expected_bytes=expected)
        except _BROKEN_OFF:
            if attempt >= connection.attempts:
                raise
            time.sleep(pause)
        else:
            return data, answer["ETag"]
    raise AssertionError


class S3Folder:
    """A `Folder` in a bucket. Conditional requests create a file only once, and replace it only if it is unchanged."""

    def __init__(self, root: str, connection: S3Connection) -> None:
        self._root = root
        self._bucket, prefix = _split(root)
        self._prefix = f"{prefix}/" if prefix else ""
        self._connection = connection
        self._s3: Any = connection.client()

    @property
    def root(self) -> str:
        return self._root

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def with_timeout(self, seconds: float) -> S3Folder:
        return S3Folder(self._root, self._connection.hasty(seconds))

    def read(self, name: str) -> bytes:
        return self.read_tagged(name)[0]

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        return self._read(name)

    def read_end(self, name: str, length: int) -> bytes:
        return self._read(name, {"Range": f"bytes=-{length}"})[0]

    def _read(self, name: str, options: Mapping[str, str] | None = None) -> tuple[bytes, str]:
        with _existing(self.path(name), f"s3:GetObject on {self._bucket}"):
            return _get(self._connection, self._bucket, self._prefix + name, options=options)

    def exists(self, name: str) -> bool:
        try:
            with _existing(self.path(name), f"s3:GetObject and s3:ListBucket on {self._bucket}"):
                self._s3.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except NotFoundError:
            return False
        return True

    def names(self, prefix: str) -> Iterator[str]:
        start = self._prefix + (f"{prefix}/" if prefix else "")
        with _explained(self.path(prefix), f"s3:ListBucket on {self._bucket}"):
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start):
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self._prefix)

    def create(self, name: str, data: bytes) -> str:
        try:
            return self._put(name, data, IfNoneMatch="*")
        except ConflictError:
            raise AlreadyExistsError(f"{self.path(name)}: it exists already") from None

    def replace(self, name: str, data: bytes, tag: str) -> str:
        return self._put(name, data, IfMatch=tag)

    def _put(self, name: str, data: bytes, **condition: str) -> str:
        path = self.path(name)
        try:
            with _explained(path, f"s3:PutObject on {self._bucket}"):
                answer = self._s3.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data, **condition)
                return str(answer["ETag"])
        except StorageError as error:
            cause = error.__cause__
            if not isinstance(cause, ClientError) or code_of(cause) not in _CHANGED | _MISSING:
                raise
            # boto3 repeats a request whose answer was lost, and may then meet its own result.
            if answer_of(cause).get("RetryAttempts") and (found := self._content(name)) and found[0] == data:
                return found[1]
            raise ConflictError(f"{path}: somebody else has changed it meanwhile") from None

    def _content(self, name: str) -> tuple[bytes, str] | None:
        try:
            return self.read_tagged(name)
        except NotFoundError:
            return None

    def copy(self, name: str, to: str) -> None:
        source = {"Bucket": self._bucket, "Key": self._prefix + name}
        with _existing(self.path(name), f"s3:GetObject and s3:PutObject on {self._bucket}"):
            self._s3.copy_object(Bucket=self._bucket, Key=self._prefix + to, CopySource=source)

    def delete(self, name: str) -> None:
        with _explained(self.path(name), f"s3:DeleteObject on {self._bucket}"):
            self._s3.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def delete_all(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), _KEYS_PER_REQUEST):
            keys = [{"Key": self._prefix + name} for name in names[start : start + _KEYS_PER_REQUEST]]
            with _explained(self.root, f"s3:DeleteObject on {self._bucket}"):
                answer = self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": keys, "Quiet": True})
                if errors := answer.get("Errors"):
                    raise ClientError({"Error": errors[0]}, "DeleteObjects")

    def delete_tree(self, name: str) -> None:
        self.delete_all(list(self.names(name)))

    def remove_leftovers(self) -> None:
        """Do nothing: an object appears whole or not at all."""
