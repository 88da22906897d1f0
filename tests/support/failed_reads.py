"""What becomes of a picture whose read fails: its own row, or a failure of the place."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from conf.errors import AppError, StorageError, TransientError
from streaming.features.imaging import Rejected
from streaming.features.reasons import Reason

Outcome = Reason | type[AppError]


DENIED = (Reason.DENIED, StorageError)


DOUBTFUL = (Reason.UNREADABLE, StorageError)


PASSING = (Reason.UNREADABLE, TransientError)


STOPS = (StorageError, StorageError)


WAITS = (TransientError, TransientError)


CODES: dict[tuple[int, str], tuple[Outcome, Outcome]] = {
    **dict.fromkeys([(404, "NoSuchKey"), (404, "NoSuchVersion"), (404, "NotFound")], (Reason.VANISHED,) * 2),
    **dict.fromkeys([(403, "AccessDenied"), (403, "AccessDeniedException"), (403, "AllAccessDisabled")], DENIED),
    (403, "InvalidObjectState"): (Reason.ARCHIVED,) * 2,
    (400, "KeyTooLongError"): (Reason.UNREADABLE,) * 2,
    **dict.fromkeys(
        [
            (400, "InvalidArgument"),
            (400, "InvalidRequest"),
            (400, "KMS.AccessDeniedException"),
            (400, "KMS.DisabledException"),
            (400, "KMS.IncorrectKeyException"),
            (400, "KMS.InvalidKeyUsageException"),
            (400, "KMS.InvalidStateException"),
            (400, "KMS.KMSInvalidStateException"),
            (400, "KMS.NotFoundException"),
            (405, "MethodNotAllowed"),
            (411, "MissingContentLength"),
            (412, "PreconditionFailed"),
            (416, "InvalidRange"),
            (501, "NotImplemented"),
            (418, "NobodyHasHeardOfThis"),
            (400, ""),
        ],
        DOUBTFUL,
    ),
    **dict.fromkeys(
        [
            (409, "ConditionalRequestConflict"),
            (500, "InternalError"),
            (500, "KMS.DependencyTimeoutException"),
            (500, "KMS.KMSInternalException"),
            (500, "KMS.KeyUnavailableException"),
            (409, "OperationAborted"),
            (400, "RequestTimeout"),
            (503, "ServiceUnavailable"),
            (503, "SlowDownRead"),
            (507, "NobodyHasHeardOfThis"),
        ],
        PASSING,
    ),
    **dict.fromkeys(
        [
            (400, "KMS.ThrottlingException"),
            (400, "KmsThrottled"),
            (400, "OverLimit"),
            (400, "RequestThrottled"),
            (503, "SlowDown"),
            (400, "Throttling"),
            (400, "ThrottlingException"),
            (429, "TooManyRequests"),
            (429, "NobodyHasHeardOfThis"),
        ],
        WAITS,
    ),
    **dict.fromkeys(
        [
            (403, "AccountProblem"),
            (400, "AuthorizationHeaderMalformed"),
            (400, "ExpiredToken"),
            (400, "ExpiredTokenException"),
            (400, "IllegalLocationConstraintException"),
            (403, "InvalidAccessKeyId"),
            (400, "InvalidBucketName"),
            (403, "InvalidClientTokenId"),
            (403, "InvalidSecurity"),
            (400, "InvalidToken"),
            (404, "NoSuchBucket"),
            (403, "NotSignedUp"),
            (301, "PermanentRedirect"),
            (400, "RequestExpired"),
            (403, "RequestTimeTooSkewed"),
            (403, "SignatureDoesNotMatch"),
            (400, "TokenRefreshRequired"),
            (403, "UnrecognizedClientException"),
            (401, "NobodyHasHeardOfThis"),
        ],
        STOPS,
    ),
}
"""What becomes of a picture whose GET is answered so: if others can be read, and if every GET is answered so."""


ERRNOS: dict[int, tuple[Outcome, Outcome]] = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR), (Reason.VANISHED,) * 2),
    **dict.fromkeys((errno.EACCES, errno.EPERM), DENIED),
    **dict.fromkeys((errno.ELOOP, errno.ENAMETOOLONG), (Reason.UNREADABLE,) * 2),
    **dict.fromkeys((errno.EBADMSG, errno.EFBIG, errno.EINVAL, errno.EIO), DOUBTFUL),
    **dict.fromkeys((errno.ENODATA, errno.ENODEV, errno.ENXIO, errno.EOVERFLOW, errno.ENOSPC), DOUBTFUL),
    **dict.fromkeys((errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN), PASSING),
    **dict.fromkeys((errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH), PASSING),
    **dict.fromkeys((errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT), PASSING),
    **dict.fromkeys((errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE), WAITS),
    **dict.fromkeys((errno.ENOBUFS, errno.ENOLCK, errno.ENOMEM), WAITS),
}
"""The same for files."""


def outcome_of(read: Callable[[str], bytes], path: str) -> tuple[Outcome, str]:
    """The outcome of a read that fails, and its message."""
    with pytest.raises((Rejected, AppError)) as caught:
        read(path)
    if isinstance(caught.value, Rejected):
        return caught.value.reason, caught.value.detail
    assert isinstance(caught.value, AppError)
    assert str(caught.value).startswith(path)
    return type(caught.value), str(caught.value)
