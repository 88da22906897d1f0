"""What a failure of Spark means."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.errors.exceptions.captured import StreamingQueryException
from pyspark.sql import SparkSession

from conf.errors import AppError, StorageError, TransientError
from conf.spark.failures import explain_failure


@pytest.mark.parametrize(
    ("java", "kind"),
    [
        ("java.net.ConnectException", TransientError),
        ("java.net.SocketTimeoutException", TransientError),
        ("java.security.cert.CertificateException", StorageError),
        ("java.lang.IllegalStateException", AppError),
    ],
)
def test_a_failed_query_is_explained_by_what_failed_in_java(
    spark: SparkSession, java: str, kind: type[AppError]
) -> None:
    """PySpark gives the message of the cause alone, and no word of the class, which tells an outage from a fault."""
    jvm: Any = spark.sparkContext._jvm
    cause = jvm.java.io.IOException("getFileStatus on s3a://bucket/key")
    cause.initCause(getattr(jvm, java)("no answer"))
    explained = explain_failure(StreamingQueryException("getFileStatus on s3a://bucket/key", "", cause))
    assert type(explained) is kind
