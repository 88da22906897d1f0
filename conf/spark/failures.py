"""Explains a failed Spark job in one line, with a remedy where one is known."""

from __future__ import annotations

import re
import sys

import conf.errors
from conf.errors import AppError, PlatformError, StorageError, TransientError
from conf.spark import java_process

END_SECONDS = 2.0
"""How long Java may take to end, once its connection is lost."""

_OURS = re.compile(r"^conf\.errors\.(?P<name>\w+): (?P<message>.+)$", re.MULTILINE)  # in a worker's traceback
# Messages of Spark, S3A and the AWS SDK once their own retries are used up; the first that is found counts.
_MEANINGS: tuple[tuple[str, type[AppError], str], ...] = (
    ("ExpiredToken|InvalidAccessKeyId", StorageError, "the AWS credentials are not valid, or not any more; renew them"),
    ("NoAuthWithAWSException", StorageError, "no AWS credentials were found; set a role, a profile or keys"),
    ("UnknownStoreException", StorageError, "no such bucket; check the name, and s3.endpoint if it is not on AWS"),
    ("AWSRedirectException", StorageError, "the bucket is in another region; set s3.region or AWS_REGION to it"),
    (
        "PKIX path|SSLPeerUnverified|CertificateException|trustAnchors",
        StorageError,
        "the store's certificate cannot be trusted; name a PEM file with its authority in AWS_CA_BUNDLE",
    ),
    (
        "AWSServiceThrottled|AWSStatus5|AWSServiceIO|Status Code: 5",
        TransientError,
        "the store is overloaded or failing",
    ),
    (
        "AWSClientIO|ConnectException|ConnectTimeout|SocketTimeout|ApiCallTimeout|Connection reset|NoHttpResponse",
        TransientError,
        "the store does not answer",
    ),
    ("RemoteFileChangedException", TransientError, "a file was exchanged while it was read"),
    ("No space left on device|Disk quota exceeded", StorageError, "the disk is full; free some space and start again"),
    (
        "Status Code: 403",  # S3A asks by HEAD, whose answer does not say which
        StorageError,
        "the AWS credentials have expired, or lack s3:ListBucket, s3:GetObject or s3:PutObject; renew them or grant it",
    ),
    ("Permission denied|AccessControlException", StorageError, "permission denied; grant this user access"),
    ("OutOfMemoryError", PlatformError, "Java ran out of memory; raise spark.driver.memory in spark.conf"),
)
_TRACE_LINE = re.compile(r"^(?:[\w.$]+\.)?(?P<name>\w+(?:Error|Exception))(?:: (?P<message>.*))?$")


def explain_failure(error: BaseException) -> AppError | None:
    """A failure of Spark as an error for people, or None if it is not one of Spark's."""
    if "pyspark" not in sys.modules:  # so nothing of Spark has failed, and importing it takes a while
        return None
    from py4j.protocol import Py4JError, Py4JNetworkError  # noqa: PLC0415 - see above
    from pyspark.errors import PySparkException  # noqa: PLC0415 - see above

    lost = isinstance(error, (Py4JNetworkError, ConnectionError, EOFError))
    if (ended := java_process.how_it_ended(END_SECONDS if lost else 0)) and not isinstance(error, AppError):
        died = PlatformError(f"{ended}; nothing is lost: start again")
        died.__cause__ = error
        return died
    if not isinstance(error, (PySparkException, Py4JError)):
        return None
    explained = _explain(_text(error), root_of(error))
    explained.__cause__ = error
    return explained


def _explain(text: str, cause: str) -> AppError:
    if ours := [*_OURS.finditer(text)]:  # raised in a worker
        kind = getattr(conf.errors, ours[-1]["name"], AppError)
        explained: AppError = kind(ours[-1]["message"])
        return explained
    for pattern, kind, meaning in _MEANINGS:
        if re.search(pattern, text):
            return kind(f"{meaning} ({cause})")
    return AppError(f"a Spark job failed: {cause}")


def _text(error: BaseException) -> str:
    """The messages of an error of Spark and of its Java causes, whose classes the error itself leaves out."""
    said = [str(error)]
    cause = getattr(error, "java_exception", None)
    while cause is not None:
        said.append(str(cause.toString()))
        cause = cause.getCause()
    captured = getattr(error, "_cause", None)  # PySpark has no public way
    while captured is not None:
        said.append(str(captured))
        captured = getattr(captured, "_cause", None)
    return "\n".join(said)


def root_of(error: BaseException) -> str:
    """The innermost cause: the last line of a worker's Python traceback if there is one, else Java's root cause."""
    text = _text(error)
    worker = text.rfind("Traceback (most recent call last)")
    candidates = [match for match in map(_TRACE_LINE.match, text[max(worker, 0) :].splitlines()) if match]
    if worker >= 0 and candidates:
        return candidates[0][0].strip()
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1 if hasattr(error, "java_exception") else 0] if lines else type(error).__name__
