"""Configures and starts the Spark session of both programs.

PySpark is imported while Java starts, which takes as long.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from conf.aws.connection import COMMITTER_PROPERTIES
from conf.aws.credentials import serve_credentials
from conf.background import in_background
from conf.errors import PlatformError
from conf.logs import log_folder, log_name
from conf.settings import Settings
from conf.spark import java_process, jvm, s3_client, worker_daemon
from conf.spark.failures import END_SECONDS, root_of
from conf.spark.java import find_java, last_words
from conf.uris import resolve
from conf.without_pandas import admit_pandas

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pyspark.sql import SparkSession

_logger = logging.getLogger(__name__)

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
    "spark.python.daemon.module": worker_daemon.__name__,
}
_LOG4J = Path(__file__).with_name("log4j2.properties")
CLASS_ARCHIVE = Path(sys.prefix, "spark-classes.jsa")


def is_submitted() -> bool:
    """Whether spark-submit has started this process from a JVM of its own, in which the session is to be.

    On YARN it waits for that session: an application that ends without one has failed, whatever its exit code.
    """
    return "PYSPARK_GATEWAY_PORT" in os.environ


@contextmanager
def spark_session(name: str, settings: Settings, properties: Mapping[str, str]) -> Iterator[SparkSession]:
    """The one Spark session of this process, which ends with the context; see `begin_session`."""
    with starting_session(name, settings, properties) as session:
        yield session()


@contextmanager
def starting_session(
    name: str, settings: Settings, properties: Mapping[str, str]
) -> Iterator[Callable[[], SparkSession]]:
    """The same for who has something else to do while Spark starts, and then calls for the session."""
    _logger.info("starting Spark")
    begun = begin_session(name, settings, properties)

    def session() -> SparkSession:
        spark = begun.wait()
        if settings.spark.ui and (address := spark.sparkContext.uiWebUrl):
            _logger.info("Spark's UI is at %s", address)
        return spark

    try:
        yield session
    finally:
        begun.end()


class BegunSession:
    """A session that has begun to start. `explaining` turns the errors of a start into `PlatformError`."""

    def __init__(self, started: Future[SparkSession], explaining: Callable[[], AbstractContextManager[None]]) -> None:
        self._started = started
        self._explaining = explaining

    def wait(self) -> SparkSession:
        """The session, once it has started.

        Raises:
            PlatformError: Spark does not start.
        """
        with self._explaining():
            return self._started.result()

    def end(self) -> None:
        """Stop the session, unless it did not start, or its Java has ended: then it cannot, and need not, be."""
        if self._started.exception() is None and java_process.how_it_ended() is None:
            self._started.result().stop()


def begin_session(name: str, settings: Settings, properties: Mapping[str, str]) -> BegunSession:
    """Begin to start the one Spark session of this process.

    Args:
        name: of the application, as Spark's UI shows it.
        settings: `spark.master` and `spark.conf`, of which the latter wins over everything else.
        properties: the properties of this program, beside those of both.

    Raises:
        PlatformError: Java is missing, or does not start.
        StorageError: there is no room for its temporary files.
    """
    master = settings.spark.master
    local = master is not None and master.startswith("local")
    if local:
        # Workers must be of this very interpreter; Spark would take whatever python3 is first on the PATH.
        os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    log, stderr = _logs(name, settings)
    uses_s3 = any(key.startswith("spark.hadoop.fs.s3a.") for key in properties)
    starts_java = not is_submitted()
    is_first = starts_java and not java_process.is_started()
    if is_first:
        os.environ["JAVA_HOME"] = str(find_java())
        if local and not str(master).startswith("local-cluster"):  # of tests: its executors work in SPARK_HOME
            # Another Spark, which the environment may name, does not understand this PySpark.
            os.environ["SPARK_HOME"] = str(java_process.installed_spark())
    uses_tls = uses_s3 and properties.get("spark.hadoop.fs.s3a.connection.ssl.enabled") != "false"
    where = _local(log, uses_tls=uses_tls, ui=settings.spark.ui) if local else {}
    access = {**jvm.S3_PROPERTIES, **COMMITTER_PROPERTIES} if local and uses_s3 else {}
    fetches = local and uses_s3 and not s3_client.is_installed()
    options = {
        "spark.app.name": name,
        **({} if master is None else {"spark.master": _with_attempts(master)}),
        **_ALWAYS,
        **where,
        **properties,
        **access,
        **(s3_client.PACKAGES if fetches else {}),
        **settings.spark.conf,
    }
    of_s3 = serve_credentials() if uses_s3 else {}
    environment = {**jvm.environment(), **s3_client.environment(), **of_s3} if local else {}
    explaining = partial(_explaining, master, stderr if starts_java else None)
    java = None
    with explaining(), ExitStack() as ends:
        if is_first:
            if fetches:
                ends.enter_context(s3_client.fetching())
            with jvm.in_environment(environment):
                java = java_process.start({**options, **(jvm.launch_properties() if local else {})}, stderr, log)
                ends.callback(java.clean_up)
        until_started = ends.pop_all()

    def start() -> SparkSession:
        with until_started:
            return _start(options, java, local=local)

    # In the main thread PySpark would install a handler of SIGINT, which calls Java while another call waits for it.
    return BegunSession(in_background(start, "start Spark"), explaining)


@contextmanager
def _explaining(master: str | None, stderr: Path | None) -> Iterator[None]:
    """Turn whatever fails into one line; `stderr` is the file of what Java says, None if it was not started here."""
    try:
        yield
    except PlatformError:
        raise
    except Exception as error:  # of PySpark or py4j, which are not imported here
        why = (_why_not(stderr, error) or java_process.how_it_ended(END_SECONDS)) if stderr else None
        told = f"{why or root_of(error)}; see {stderr}" if stderr else root_of(error)
        raise PlatformError(f"Spark does not start on {master or 'spark-submit'}: {told}") from error


def start_session(name: str, settings: Settings, properties: Mapping[str, str]) -> SparkSession:
    """The session of `begin_session`, once it has started.

    Raises:
        PlatformError: Java is missing or Spark does not start.
    """
    return begin_session(name, settings, properties).wait()


def _start(options: Mapping[str, str], java: java_process.Starting | None, *, local: bool) -> SparkSession:
    """Import PySpark, and make the session.

    Args:
        options: of Spark.
        java: has been started for the session; None if it runs already.
        local: whether Spark runs in this process and its children.
    """
    admit_pandas()
    from pyspark import SparkContext  # noqa: PLC0415 - while Java starts
    from pyspark.sql import SparkSession  # noqa: PLC0415 - as above

    with suppress(ImportError):
        import_module("pyspark.testing.utils")  # PySpark imports it, and pandas, at its first call of Java
    if local:
        _check_pyspark()
    builder = SparkSession.builder.config(map=dict(options))
    with jvm.in_environment(java.wait() if java else {}):
        if local:
            # The user must be logged in between the start of the JVM and that of Spark.
            SparkContext._ensure_initialized()  # noqa: SLF001 # PySpark has no public way
            jvm.log_in(SparkContext._jvm)  # noqa: SLF001 # as above
        return builder.getOrCreate()


def _check_pyspark() -> None:
    """Refuse another PySpark than the one that was installed with this project, as PYTHONPATH may bring.

    Raises:
        PlatformError: another PySpark was imported; the message says from where.
    """
    import pyspark  # noqa: PLC0415 - see the module's docstring

    with suppress(PackageNotFoundError):  # Spark's own, on a cluster
        if (installed := version("pyspark")) != pyspark.__version__:
            found = f"PySpark {pyspark.__version__} from {Path(pyspark.__file__).parent}"
            raise PlatformError(f"{found} hides the {installed} that is installed; unset PYTHONPATH")


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
    if hasattr(error, "java_exception") or not stderr.exists():
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


def _local(log: Path, *, uses_tls: bool, ui: bool) -> dict[str, str]:
    options = [local_java_options(log)]
    if CLASS_ARCHIVE.exists():
        options.append(f'-XX:SharedArchiveFile="{CLASS_ARCHIVE}"')
    if uses_tls:
        options += jvm.trust_options(Path(os.environ["JAVA_HOME"]))
    # Spark puts these before spark.driver.extraJavaOptions, so that a user's own add to them instead of replacing them.
    java = {"spark.driver.defaultJavaOptions": " ".join(options)}
    show = {"spark.ui.enabled": str(ui).lower()}  # on SPARK_LOCAL_IP, which is 127.0.0.1: see jvm.environment
    return {**_LOCAL, **show, **jvm.session_properties(), **jvm.local_folder(), **java}
