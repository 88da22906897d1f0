"""The table that classifies failed requests to a store.

It has one row per error code of AWS, per exception class of boto3, and per errno. The rows decide for every service
whether a request is retried, and for a picture whether it alone fails, or the place where it lies.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from enum import Enum
from typing import TypeVar

from botocore import exceptions as boto

from conf.errors import AppError


class Meaning(Enum):
    """The meaning of a failure. The comments say what happens to a picture whose read fails so."""

    GONE = "nothing is under this name"  # quarantined as vanished
    DENIED = "access is denied"  # quarantined as denied if others can be read, else a permanent failure of the place
    ARCHIVED = "it has to be restored first"  # quarantined as archived
    OWN = "the request cannot succeed for this one"  # quarantined as unreadable, whatever becomes of others
    DOUBTFUL = "refused"  # quarantined as unreadable if others can be read, else a permanent failure of the place
    PASSING = "failing"  # unreadable if retries fail while others can be read, else a transient failure of the place
    OUTAGE = "the store or this process has too much to do"  # a transient failure of the place
    PLACE = "the credentials, bucket, region or clock are wrong"  # a permanent failure of the place


Key = TypeVar("Key", str, int)


_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"


def _rows(meaning: Meaning, keys: Iterable[Key]) -> dict[Key, Meaning]:
    return dict.fromkeys(keys, meaning)


BY_CODE: dict[str, Meaning] = {
    **_rows(Meaning.GONE, ("NoSuchKey", "NoSuchVersion", "NotFound", "404")),
    **_rows(Meaning.DENIED, ("AccessDenied", "AccessDeniedException", "AllAccessDisabled", "403")),
    **_rows(Meaning.ARCHIVED, ("InvalidObjectState",)),
    **_rows(Meaning.OWN, ("KeyTooLongError",)),
    **_rows(
        Meaning.DOUBTFUL,
        (
            "InvalidArgument",
            "InvalidRequest",  # among others: the object needs the key of its writer (SSE-C)
            "KMS.AccessDeniedException",
            "KMS.DisabledException",
            "KMS.IncorrectKeyException",
            "KMS.InvalidKeyUsageException",
            "KMS.InvalidStateException",
            "KMS.KMSInvalidStateException",  # the key is pending deletion
            "KMS.NotFoundException",
            "MethodNotAllowed",
            "NotImplemented",  # by other stores than AWS, of what the project needs
            "400",
            "405",
            "411",
            "412",
            "416",
            "501",
        ),
    ),
    **_rows(
        Meaning.PASSING,
        (
            "ConditionalRequestConflict",
            "InternalError",
            "KMS.DependencyTimeoutException",
            "KMS.KMSInternalException",
            "KMS.KeyUnavailableException",
            "OperationAborted",
            "RequestTimeout",
            "ServiceUnavailable",
            "SlowDownRead",  # MinIO's, of an object whose disks are lost
            "409",
        ),
    ),
    **_rows(
        Meaning.OUTAGE,
        (
            "KMS.ThrottlingException",
            "KmsThrottled",
            "OverLimit",
            "RequestThrottled",
            "SlowDown",
            "Throttling",
            "ThrottlingException",
            "TooManyRequests",
            "429",
        ),
    ),
    **_rows(
        Meaning.PLACE,
        (
            "AccountProblem",
            "AuthorizationHeaderMalformed",
            "ExpiredToken",
            "ExpiredTokenException",
            "IllegalLocationConstraintException",
            "InvalidAccessKeyId",
            "InvalidBucketName",
            "InvalidClientTokenId",
            "InvalidSecurity",
            "InvalidToken",
            "NoSuchBucket",
            "NotSignedUp",
            "PermanentRedirect",
            "RequestExpired",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
            "UnrecognizedClientException",
            "301",
            "401",
        ),
    ),
}
"""Error codes of AWS and of stores that speak its protocol. The answer to a HEAD has its status for a code."""

BY_STATUS: dict[int, Meaning] = {
    **_rows(Meaning.PLACE, (301, 307, 308, 401)),
    **_rows(Meaning.OUTAGE, (429,)),
    **_rows(Meaning.PASSING, range(500, 600)),
    **_rows(Meaning.DOUBTFUL, (501,)),
}
"""HTTP statuses, where the code is none of `BY_CODE`."""

BY_KIND: tuple[tuple[type[Exception], Meaning], ...] = (
    (boto.NoCredentialsError, Meaning.PLACE),
    (boto.PartialCredentialsError, Meaning.PLACE),
    (boto.CredentialRetrievalError, Meaning.PLACE),
    (boto.MetadataRetrievalError, Meaning.PLACE),
    (boto.NoAuthTokenError, Meaning.PLACE),
    (boto.TokenRetrievalError, Meaning.PLACE),
    (boto.SSOError, Meaning.PLACE),
    (boto.ProfileNotFound, Meaning.PLACE),
    (boto.NoRegionError, Meaning.PLACE),
    (boto.ConnectionError, Meaning.OUTAGE),  # there was no connection: no matter what was asked for
    (boto.HTTPClientError, Meaning.PASSING),
    (boto.IncompleteReadError, Meaning.PASSING),
    (boto.BotoCoreError, Meaning.DOUBTFUL),
)
"""Errors that boto3 raises without an answer of the service; the first that fits counts."""

BY_ERRNO: dict[int, Meaning] = {
    **_rows(Meaning.GONE, (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)),
    **_rows(Meaning.DENIED, (errno.EACCES, errno.EPERM)),
    **_rows(Meaning.OWN, (errno.ELOOP, errno.ENAMETOOLONG)),
    **_rows(
        Meaning.DOUBTFUL,
        (
            errno.EBADMSG,  # a checksum of the file system does not fit
            errno.EFBIG,
            errno.EINVAL,
            errno.EIO,
            errno.ENODATA,  # a bad sector, as some drivers say it
            errno.ENODEV,
            errno.ENXIO,
            errno.EOVERFLOW,
        ),
    ),
    **_rows(
        Meaning.PASSING,
        (
            errno.EBUSY,
            errno.ECONNABORTED,
            errno.ECONNREFUSED,
            errno.ECONNRESET,
            errno.EHOSTDOWN,
            errno.EHOSTUNREACH,
            errno.ENETDOWN,
            errno.ENETUNREACH,
            errno.ENOTCONN,
            errno.ESTALE,
            errno.ETIMEDOUT,
        ),
    ),
    # These are of this process or machine.
    **_rows(
        Meaning.OUTAGE,
        (errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOLCK, errno.ENOMEM),
    ),
}
"""Error numbers of the operating system."""


def meaning_of(error: BaseException) -> Meaning:
    """The meaning of an error, or of the one that an error of ours was raised from; DOUBTFUL if not in the table."""
    error = _cause(error)
    if isinstance(error, boto.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return BY_CODE.get(code_of(error)) or BY_STATUS.get(status, Meaning.DOUBTFUL)
    if isinstance(error, boto.SSLError) and _UNTRUSTED in str(error):
        return Meaning.PLACE
    for kind, meaning in BY_KIND:
        if isinstance(error, kind):
            return meaning
    number = error.errno if isinstance(error, OSError) else None
    return BY_ERRNO.get(number or 0, Meaning.DOUBTFUL)


def passes(error: OSError) -> bool:
    """Whether a failure of the operating system, with a file of ours, is worth another try."""
    # A file system without locks never has any, and a process that leaks files needs another start.
    return error.errno not in (errno.ENOLCK, errno.EMFILE) and meaning_of(error) in (Meaning.PASSING, Meaning.OUTAGE)


def said_of(error: BaseException) -> str:
    """The message of the store or the operating system, in one line: "KMS.DisabledException: ...", "EIO: ..."."""
    error = _cause(error)
    name, said = type(error).__name__, str(error)
    if isinstance(error, boto.ClientError):
        name, said = code_of(error), error.response.get("Error", {}).get("Message", "")
    elif isinstance(error, OSError) and error.errno:
        name, said = errno.errorcode.get(error.errno, f"errno {error.errno}"), error.strerror or ""
    return f"{name}: {' '.join(said.split())}".removesuffix(": ")


def code_of(error: boto.ClientError) -> str:
    """The error code in the service's response."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error, AppError) and error.__cause__ else error
