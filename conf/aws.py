"""What the errors of boto3 mean, whichever service of AWS they come from.

It owns the sorting of refusals and failures into ours, and their words; it must not know what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from conf.errors import RefusedError, StorageError, TransientError

_DENIED = frozenset(("AccessDenied", "AccessDeniedException", "AllAccessDisabled", "403"))
_REMEDIES = dict.fromkeys(
    (
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ),
    "the AWS credentials are not valid, or not any more; renew them",
)
_OVERLOADED = frozenset(
    (
        "InternalError",
        "KMS.ThrottlingException",
        "KmsThrottled",
        "OverLimit",
        "RequestThrottled",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "429",
        "ConditionalRequestConflict",
        "OperationAborted",
        "409",
    )
)
_SERVER_ERRORS = 500
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError)
_NO_ANSWER = (BotoConnectionError, HTTPClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError)


def code_of(error: ClientError) -> str:
    """The service's name for what went wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))


def answer_of(error: ClientError) -> dict[str, Any]:
    """How the answer came: status, number of retries."""
    return dict(error.response.get("ResponseMetadata", {}))


@dataclass(frozen=True)
class Explainer:
    """Turns errors of boto3 into errors for people: what was refused, and what to grant or set.

    Attributes:
        service: what people call it.
        remedies: what to do about the codes that are its own.
    """

    service: str
    remedies: Mapping[str, str]

    @contextmanager
    def explained(self, what: str, permission: str) -> Iterator[None]:
        """Within, an error of boto3 becomes one of ours.

        Args:
            what: is asked for.
            permission: is needed for it.

        Raises:
            RefusedError: access is denied.
            TransientError: the service fails now.
            StorageError: anything else.
        """
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, what, permission) from error

    def _explain(self, error: Exception, what: str, permission: str) -> StorageError:
        if isinstance(error, ClientError):
            return self._explain_answer(error, what, permission)
        if isinstance(error, _NO_ANSWER):
            return TransientError(f"{what}: {self.service} does not answer: {error}")
        if isinstance(error, _NO_CREDENTIALS):
            return StorageError(f"{what}: no AWS credentials are to be had ({error}); set a role, a profile or keys")
        if isinstance(error, NoRegionError):
            return StorageError(f"{what}: no region is set; set s3.region or AWS_REGION")
        return StorageError(f"{what}: boto3 refused to ask: {' '.join(str(error).split())}")

    def _explain_answer(self, error: ClientError, what: str, permission: str) -> StorageError:
        code = code_of(error)
        if code in _DENIED:
            return RefusedError(f"{what}: access denied; grant {permission}")
        if code in _OVERLOADED or answer_of(error).get("HTTPStatusCode", 0) >= _SERVER_ERRORS:
            return TransientError(f"{what}: {self.service} is overloaded or failing ({code})")
        remedy = {**_REMEDIES, **self.remedies}.get(code, f"{self.service} refused: {error}")
        return StorageError(f"{what}: {remedy}")
