"""The Spark session of both programs, and what a failing Spark job means in one line.

It owns Spark's configuration and the translation of its failures; it must not know what the jobs compute.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

import conf.errors
from conf.errors import AppError, PlatformError, StorageError, TransientError
from conf.java import find_java
from conf.logs import log_folder
from conf.s3 import LOCAL_JARS
from conf.settings import Settings

_ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.ui.showConsoleProgress": "false",
    # Each batch of an Arrow table becomes a partition; otherwise a small table is cut anew, into one for each slot.
    "spark.sql.execution.arrow.localRelationThreshold": "0",
    # One picture is one unit of work; a worker that brings its own threads would fight its neighbours for the core.
    "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
    "spark.executorEnv.OMP_NUM_THREADS": "1",
}
_LOCAL = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
}
_LOG4J = Path(__file__).with_name("log4j2.properties")
CLASS_ARCHIVE = Path(sys.prefix, "spark-classes.jsa")
_OURS = re.compile(r"^conf\.errors\.(?P<name>\w+): (?P<message>.+)$", re.MULTILINE)  # in a worker's traceback
# What Spark, S3A and the AWS SDK say once their own retries are used up; the first that is found counts.
_MEANINGS: tuple[tuple[str, type[AppError], str], ...] = (
    ("ExpiredToken|InvalidAccessKeyId", StorageError, "the AWS credentials are not valid, or not any more; renew them"),
    ("NoAuthWithAWSException", StorageError, "no AWS credentials are to be had; set a role, a profile or keys"),
    ("UnknownStoreException", StorageError, "no such bucket; check the name, and s3.endpoint if it is not on AWS"),
    ("AWSRedirectException", StorageError, "the bucket is in another region; set s3.region or AWS_REGION to it"),
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


def start_session(name: str, settings: Settings, properties: Mapping[str, str]) -> SparkSession:
    """The one Spark session of this process.

    Args:
        name: of the application, as Spark's UI shows it.
        settings: `spark.master` and `spark.conf`, of which the latter wins over everything else.
        properties: what this program needs beyond what both need.

    Raises:
        PlatformError: if Java is missing or Spark does not start.
    """
    master = settings.spark.master
    local = master is not None and master.startswith("local")
    builder = SparkSession.builder.appName(name)
    if master is not None:
        builder = builder.master(_with_attempts(master))
    if local:
        # Workers must be of this very interpreter; Spark would take whatever python3 is first on the PATH.
        os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    logs = log_folder(settings.log)
    where = _local(properties, logs) if local else {}
    for key, value in {**_ALWAYS, **where, **properties, **settings.spark.conf}.items():
        builder = builder.config(key, value)
    stderr = logs / "spark-stderr.log"
    starts_java = "PYSPARK_GATEWAY_PORT" not in os.environ  # with it, a JVM runs already
    try:
        if starts_java:
            os.environ["JAVA_HOME"] = str(find_java())
            with _stderr_into(stderr):
                session = builder.getOrCreate()
        else:
            session = builder.getOrCreate()
    except (PySparkException, Py4JError, RuntimeError, OSError) as error:
        told = f"{_why_not(stderr) or _root(error)}; see {stderr}" if starts_java else _root(error)
        raise PlatformError(f"Spark does not start on {master or 'spark-submit'}: {told}") from error
    return session


def _with_attempts(master: str) -> str:
    """Without its second number, `local[2]` would try a task once, and a worker that dies would end the job."""
    return re.sub(r"^local\[([^,\]]+)\]$", r"local[\1,4]", "local[1]" if master == "local" else master)


def _why_not(stderr: Path) -> str | None:
    """What the JVM wrote about its end, where people can mend it."""
    if "unresolved dependenc" in stderr.read_text(encoding="utf-8", errors="replace"):
        return (
            "its S3 client cannot be fetched from Maven Central; connect to the internet for the first start on S3, or "
            "name a mirror in spark.conf: spark.jars.ivySettings"
        )
    return None


def local_java_options(logs: Path) -> str:
    """For a JVM that only plans, and shares the cores with the Python workers.

    It compiles little, collects with one thread, logs into `logs`, and passes over an archive of classes that does not
    fit any more in silence.
    """
    return (
        "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xlog:cds=off -Xlog:cds+dynamic=off "
        f'-Dlog4j2.configurationFile="{_LOG4J.as_uri()}" -Dpicture.features.log="{logs}/spark.log"'
    )


def _local(properties: Mapping[str, str], logs: Path) -> dict[str, str]:
    options = local_java_options(logs)
    if CLASS_ARCHIVE.exists():
        options += f' -XX:SharedArchiveFile="{CLASS_ARCHIVE}"'
    uses_s3 = any(key.startswith("spark.hadoop.fs.s3a.") for key in properties)
    return {**_LOCAL, **(LOCAL_JARS if uses_s3 else {}), "spark.driver.extraJavaOptions": options}


@contextmanager
def _stderr_into(log: Path) -> Iterator[None]:
    """Lets the JVM, and the Python workers that it starts, inherit `log` as their stderr instead of the terminal."""
    saved = os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o644)
    try:
        os.dup2(target, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(target)


def explain_failure(error: BaseException) -> AppError | None:
    """A failure of Spark as an error for people, or None if it is none of Spark's."""
    if not isinstance(error, (PySparkException, Py4JError)):
        return None
    explained = _explain(_text(error), _root(error))
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
    """All that an error of Spark says, with the chain of its Java causes."""
    said = [str(error)]
    cause = error.java_exception if isinstance(error, Py4JJavaError) else None
    while cause is not None:
        said.append(str(cause.toString()))
        cause = cause.getCause()
    return "\n".join(said)


def _root(error: BaseException) -> str:
    """The innermost cause: the last line of a worker's Python traceback if there is one, else Java's root cause."""
    text = _text(error)
    worker = text.rfind("Traceback (most recent call last)")
    candidates = [match for match in map(_TRACE_LINE.match, text[max(worker, 0) :].splitlines()) if match]
    if worker >= 0 and candidates:
        return candidates[0][0].strip()
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return (lines[-1] if isinstance(error, Py4JJavaError) and lines else lines[0]) if lines else type(error).__name__
