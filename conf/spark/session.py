"""Configures and starts the Spark session of both programs, and explains a failed Spark job in one line."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyspark
from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

import conf.errors
from conf.aws.connection import COMMITTER_PROPERTIES
from conf.aws.credentials import serve_credentials
from conf.errors import AppError, PlatformError, StorageError, TransientError
from conf.logs import log_folder, log_name
from conf.settings import Settings
from conf.spark import java_process, jvm, s3_client
from conf.spark.java import find_java, last_words
from conf.uris import resolve

_ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.ui.showConsoleProgress": "false",
    # Each batch of an Arrow table becomes a partition; otherwise a small table is divided again, one part per slot.
    "spark.sql.execution.arrow.localRelationThreshold": "0",
    # One picture is one unit of work; a worker with several threads would compete with its neighbours for the cores.
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
_END_SECONDS = 2.0
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


def is_submitted() -> bool:
    """Whether spark-submit has started this process from a JVM of its own, in which the session is to be.

    On YARN it waits for that session: an application that ends without one has failed, whatever its exit code.
    """
    return "PYSPARK_GATEWAY_PORT" in os.environ


@contextmanager
def spark_session(name: str, settings: Settings, properties: Mapping[str, str]) -> Iterator[SparkSession]:
    """The one Spark session of this process, which ends with the context; see `start_session`."""
    spark = start_session(name, settings, properties)
    try:
        yield spark
    finally:
        _end_session(spark)


def start_session(name: str, settings: Settings, properties: Mapping[str, str]) -> SparkSession:
    """The one Spark session of this process.

    Args:
        name: of the application, as Spark's UI shows it.
        settings: `spark.master` and `spark.conf`, of which the latter wins over everything else.
        properties: the properties of this program, beside those of both.

    Raises:
        PlatformError: Java is missing or Spark does not start.
    """
    master = settings.spark.master
    local = master is not None and master.startswith("local")
    if local:
        _check_pyspark()
    builder = SparkSession.builder.appName(name)
    if master is not None:
        builder = builder.master(_with_attempts(master))
    if local:
        # Workers must be of this very interpreter; Spark would take whatever python3 is first on the PATH.
        os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    log, stderr = _logs(name, settings)
    uses_s3 = any(key.startswith("spark.hadoop.fs.s3a.") for key in properties)
    starts_java = not is_submitted()
    is_first = SparkContext._gateway is None  # noqa: SLF001 - the one that PySpark keeps; its JVM serves all sessions
    if starts_java and is_first:
        os.environ["JAVA_HOME"] = str(find_java())
    uses_tls = uses_s3 and properties.get("spark.hadoop.fs.s3a.connection.ssl.enabled") != "false"
    where = _local(log, uses_tls=uses_tls) if local else {}
    access = {**jvm.S3_PROPERTIES, **COMMITTER_PROPERTIES} if local and uses_s3 else {}
    fetches = local and uses_s3 and not s3_client.is_installed()
    for key, value in {
        **_ALWAYS,
        **where,
        **properties,
        **access,
        **(s3_client.PACKAGES if fetches else {}),
        **settings.spark.conf,
    }.items():
        builder = builder.config(key, value)
    of_s3 = serve_credentials() if uses_s3 else {}
    environment = {**jvm.environment(), **s3_client.environment(), **of_s3} if local else {}
    try:
        start = partial(_start, builder, local=local)
        if starts_java and is_first:
            options = {**builder._options, **(jvm.launch_properties() if local else {})}  # noqa: SLF001 - as above
            with (
                s3_client.fetching() if fetches else nullcontext(),
                jvm.in_environment(environment),
                jvm.in_environment(java_process.start(options, stderr, log)),
            ):
                session = _in_a_thread(start)
        else:
            session = _in_a_thread(start)
    except (PySparkException, Py4JError, RuntimeError, OSError) as error:
        why = (_why_not(stderr, error) or java_process.how_it_ended(_END_SECONDS)) if starts_java else None
        told = f"{why or _root(error)}; see {stderr}" if starts_java else _root(error)
        raise PlatformError(f"Spark does not start on {master or 'spark-submit'}: {told}") from error
    return session


def _check_pyspark() -> None:
    """Refuse another PySpark than the one that was installed with this project, as PYTHONPATH may bring.

    Raises:
        PlatformError: another PySpark was imported; the message says from where.
    """
    with suppress(PackageNotFoundError):  # Spark's own, on a cluster
        if (installed := version("pyspark")) != pyspark.__version__:
            found = f"PySpark {pyspark.__version__} from {Path(pyspark.__file__).parent}"
            raise PlatformError(f"{found} hides the {installed} that is installed; unset PYTHONPATH")


def _start(builder: SparkSession.Builder, *, local: bool) -> SparkSession:
    if local:
        # The user must be logged in between the start of the JVM and that of Spark.
        SparkContext._ensure_initialized()  # noqa: SLF001 # PySpark has no public way
        jvm.log_in(SparkContext._jvm)  # noqa: SLF001 # as above
    return builder.getOrCreate()


def _end_session(spark: SparkSession) -> None:
    """Stop a session, unless its Java has ended: then it cannot, and need not, be stopped."""
    if java_process.how_it_ended() is None:
        spark.stop()


def _in_a_thread(start: Callable[[], SparkSession]) -> SparkSession:
    """Start a session in another thread, and wait for it.

    In the main thread PySpark would install a handler of SIGINT, which calls Java while another call waits for it.
    """
    started: Future[SparkSession] = Future()

    def run() -> None:
        try:
            started.set_result(start())
        except BaseException as error:  # noqa: BLE001 - raised in the waiting thread
            started.set_exception(error)

    threading.Thread(target=run, name="start Spark", daemon=True).start()
    return started.result()


def _logs(name: str, settings: Settings) -> tuple[Path, Path]:
    """The file of Spark's own log, and the file of the output of Java and the workers on stderr."""
    folder, output = log_folder(settings.log), resolve(settings.output) if settings.output else None
    verb = name.removeprefix("picture-features").strip().replace(" ", "-")
    stems = (log_name("-".join(filter(None, (kind, verb))), output) for kind in ("spark", "spark-stderr"))
    log, stderr = (folder / f"{stem}.log" for stem in stems)
    return log, stderr


def _with_attempts(master: str) -> str:
    """A local master with the number of attempts: `local[2]` alone tries a task once, so a dead worker ends the job."""
    return re.sub(r"^local\[([^,\]]+)\]$", r"local[\1,4]", "local[1]" if master == "local" else master)


def _why_not(stderr: Path, error: BaseException) -> str | None:
    """The cause of the JVM's end, with a remedy where one is known; None if it did not end."""
    if isinstance(error, Py4JJavaError) or not stderr.exists():
        return None
    said = stderr.read_text(encoding="utf-8", errors="replace")
    if "unresolved dependenc" in said:
        return (
            "its S3 client cannot be fetched from Maven Central; connect to the internet for the first start on S3, or "
            "name a mirror in spark.conf: spark.jars.ivySettings"
        )
    return last_words(said)


def local_java_options(log: Path) -> str:
    """Options of a JVM that only plans, and shares the cores with the Python workers.

    It compiles little, collects garbage with one thread, logs into `log`, and silently ignores an archive of classes
    that does not fit any more.
    """
    return " ".join(
        (
            "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xlog:cds=off -Xlog:cds+dynamic=off",
            jvm.java_option("log4j2.configurationFile", _LOG4J.as_uri()),
            jvm.java_option("picture.features.log", log),
            *jvm.machine_options(log.parent),
        )
    )


def _local(log: Path, *, uses_tls: bool) -> dict[str, str]:
    options = [local_java_options(log)]
    if CLASS_ARCHIVE.exists():
        options.append(f'-XX:SharedArchiveFile="{CLASS_ARCHIVE}"')
    if uses_tls:
        options += jvm.trust_options(Path(os.environ["JAVA_HOME"]))
    # Spark puts these before spark.driver.extraJavaOptions, so that a user's own add to them instead of replacing them.
    java = {"spark.driver.defaultJavaOptions": " ".join(options)}
    return {**_LOCAL, **jvm.session_properties(), **jvm.local_folder(), **java}


def explain_failure(error: BaseException) -> AppError | None:
    """A failure of Spark as an error for people, or None if it is not one of Spark's."""
    lost = isinstance(error, (Py4JNetworkError, ConnectionError, EOFError))
    if (ended := java_process.how_it_ended(_END_SECONDS if lost else 0)) and not isinstance(error, AppError):
        died = PlatformError(f"{ended}; nothing is lost: start again")
        died.__cause__ = error
        return died
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
    """The messages of an error of Spark and of its Java causes, whose classes the error itself leaves out."""
    said = [str(error)]
    cause = error.java_exception if isinstance(error, Py4JJavaError) else None
    while cause is not None:
        said.append(str(cause.toString()))
        cause = cause.getCause()
    captured = getattr(error, "_cause", None)  # PySpark has no public way
    while captured is not None:
        said.append(str(captured))
        captured = getattr(captured, "_cause", None)
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
