"""Explains the errors of boto3, for all services of AWS. `conf.failures` has the table that classifies them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    SSLError,
)

from conf.errors import RefusedError, StorageError, TransientError
from conf.failures import Meaning, code_of, meaning_of

_CLOCK = "the clock of this machine is wrong; set it"
_REMEDIES = {
    **dict.fromkeys(
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
    ),
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
}
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError)
_PASSES = (Meaning.PASSING, Meaning.OUTAGE)


def _reason(error: SSLError) -> str:
    """OpenSSL's reason, without the messages that urllib3 and botocore wrap around it."""
    return str(error).rpartition("failed: ")[2].partition(" (_ssl")[0]


def answer_of(error: ClientError) -> dict[str, Any]:
    """The metadata of a response: its status, the number of retries."""
    return dict(error.response.get("ResponseMetadata", {}))


@dataclass(frozen=True)
class Explainer:
    """Turns errors of boto3 into errors for people: what was refused, and what to grant or set."""

    service: str
    remedies: Mapping[str, str]

    @contextmanager
    def explained(self, what: str, permission: str) -> Iterator[None]:
        """Turn errors of boto3 inside the context into errors of ours.

        Args:
            what: the object of the request, for the message.
            permission: the permission that the request needs.

        Raises:
            RefusedError: access is denied.
            TransientError: the service fails at the moment.
            StorageError: any other failure.
        """
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, what, permission) from error

    def _explain(self, error: Exception, what: str, permission: str) -> StorageError:
        meaning = meaning_of(error)
        if isinstance(error, ClientError):
            return self._explain_answer(error, meaning, what, permission)
        if isinstance(error, SSLError) and meaning is Meaning.PLACE:
            return StorageError(
                f"{what}: the certificate of {self.service} cannot be trusted ({_reason(error)}); "
                "name a PEM file with its authority in AWS_CA_BUNDLE"
            )
        if meaning in _PASSES:
            return TransientError(f"{what}: {self.service} does not answer: {error}")
        if isinstance(error, _NO_CREDENTIALS):
            return StorageError(f"{what}: no AWS credentials were found ({error}); set a role, a profile or keys")
        if isinstance(error, NoRegionError):
            return StorageError(f"{what}: no region is set; set s3.region or AWS_REGION")
        return StorageError(f"{what}: boto3 refused to ask: {' '.join(str(error).split())}")

    def _explain_answer(self, error: ClientError, meaning: Meaning, what: str, permission: str) -> StorageError:
        code = code_of(error)
        if meaning is Meaning.DENIED:
            return RefusedError(f"{what}: access denied; grant {permission}")
        if meaning in _PASSES:
            return TransientError(f"{what}: {self.service} is overloaded or failing ({code})")
        remedy = {**_REMEDIES, **self.remedies}.get(code, f"{self.service} refused: {error}")
        return StorageError(f"{what}: {remedy}")
