"""What a failure of Spark means, and what a session shows."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pyspark.errors.exceptions.captured import StreamingQueryException
from pyspark.sql import SparkSession

from conf.errors import AppError, StorageError, TransientError
from conf.loading import load_settings
from conf.spark.failures import explain_failure
from conf.spark.session import spark_session


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


@pytest.mark.usefixtures("jvm")
def test_sparks_own_pages_are_shown_where_they_are_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On this machine only; the log has the address."""
    settings = load_settings({"spark.master": "local[1,4]", "spark.ui": "true", "log.folder": str(tmp_path)})
    with caplog.at_level("INFO", "conf"), spark_session("pages", settings, {}):
        [address] = re.findall(r"Spark's UI is at (\S+)", caplog.text)
        assert urlsplit(address).hostname == "127.0.0.1"
        with urllib.request.urlopen(f"{address}/jobs/", timeout=30) as page:
            assert b"Spark Jobs" in page.read()
