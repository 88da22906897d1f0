"""Fetches Spark's client of S3 for a local Spark; a cluster has its own.

`make setup` fetches it into the environment. Otherwise Spark fetches it from Maven Central into Ivy's cache, which two
programs must not do at once: https://issues.apache.org/jira/browse/IVY-654
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from conf.spark.java import find_java

_PACKAGES = (
    "org.apache.hadoop:hadoop-aws:3.4.2",
    "org.apache.spark:spark-hadoop-cloud_2.13:4.1.1",
    *(
        f"software.amazon.awssdk:{module}:2.29.52"
        for module in ("s3", "s3-transfer-manager", "sts", "apache-client", "netty-nio-client")
    ),
)
_OTHER_CLOUDS = (
    "com.google.cloud.bigdataoss:gcs-connector",
    "org.apache.hadoop:hadoop-azure",
    "org.apache.hadoop:hadoop-azure-datalake",
    "org.apache.hadoop:hadoop-gcp",
    "org.apache.hadoop:hadoop-aliyun",
    "org.apache.hadoop:hadoop-cos",
    "org.apache.hadoop:hadoop-huaweicloud",
    "org.apache.hadoop:hadoop-tos",
    "org.apache.hadoop:hadoop-openstack",
    "org.apache.hadoop:hadoop-cloud-storage",
)
_WITH_SPARK = ("org.apache.hadoop:hadoop-client-api", "org.apache.hadoop:hadoop-client-runtime")
_EXCLUDED = ("software.amazon.awssdk:bundle", *_OTHER_CLOUDS, *_WITH_SPARK)

PACKAGES = {"spark.jars.packages": ",".join(_PACKAGES), "spark.jars.excludes": ",".join(_EXCLUDED)}
"""The properties by which Spark fetches it."""

_FOLDER = Path(sys.prefix, "spark-s3-client")

_logger = logging.getLogger(__name__)


def is_installed() -> bool:
    """Whether `install` put it into this environment."""
    return _FOLDER.is_dir()


def environment() -> dict[str, str]:
    """The variable by which Spark's launcher puts it on the class path, if it is installed.

    It is there for every session, so that one archive of classes fits all; the launcher puts it behind Spark's own
    jars: https://github.com/apache/spark/blob/v4.1.1/launcher/src/main/java/org/apache/spark/launcher/AbstractCommandBuilder.java
    """
    name = "SPARK_DIST_CLASSPATH"
    ours = [f"{_FOLDER}/*"] if is_installed() else []
    return {name: os.pathsep.join([*filter(None, [os.environ.get(name)]), *ours])} if ours else {}


@contextmanager
def fetching() -> Iterator[None]:
    """Keep other programs of this user from fetching it inside the context."""
    file = Path(tempfile.gettempdir(), f"picture-features-{os.getuid()}.lock")
    with file.open("a") as lock:  # "w" could empty what a link there points to
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.info("waiting until another program has fetched Spark's S3 client (it holds %s)", file)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install() -> None:
    """Fetch the client into this environment.

    Raises:
        AppError, OSError, Py4JError: it cannot be fetched.
    """
    part = _FOLDER.with_suffix(".part")
    for former in (_FOLDER, part):
        shutil.rmtree(former, ignore_errors=True)
    part.mkdir()
    with fetching(), tempfile.TemporaryDirectory() as folder:
        for jar in fetch_jars(_PACKAGES, _EXCLUDED, Path(folder, "ivy.log")):
            shutil.copy(jar, part)
    part.rename(_FOLDER)


def fetch_jars(packages: Iterable[str], excluded: Iterable[str], log: Path) -> list[str]:
    """The jars of packages (group:artifact:version) and of their dependencies, without those excluded (group:artifact).

    Spark's own resolver fetches them; `log` gets its output.
    """
    from pyspark.java_gateway import launch_gateway  # noqa: PLC0415 - nothing else here needs PySpark

    os.environ["JAVA_HOME"] = str(find_java())
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    gateway = launch_gateway(popen_kwargs=quiet)  # type: ignore[no-untyped-call] # PySpark does not say
    try:
        assert gateway.jvm is not None
        scala, maven = gateway.jvm.scala, gateway.jvm.org.apache.spark.util.MavenUtils
        nothing, left_out = scala.Option.empty(), scala.collection.immutable.List.newBuilder()
        for package in excluded:
            left_out.addOne(package)
        said = gateway.jvm.java.io.PrintStream(str(log))
        settings = maven.buildIvySettings(nothing, nothing, False, said)
        wanted = ",".join(packages)
        jars = maven.resolveMavenCoordinates(wanted, settings, nothing, True, left_out.result(), False, said)
        return str(jars.mkString(os.pathsep)).split(os.pathsep)
    finally:
        gateway.shutdown()
        gateway.proc.stdin.close()  # the JVM ends when its parent is gone
        gateway.proc.wait(timeout=60)
