"""Puts Spark's client of S3, and an archive of the Java classes that Spark loads at each start, into the environment.

    python -m conf.spark.class_archive

`make setup` runs it, for the programs that run Spark locally. The archive takes a fifth off the time of a short replay;
Java ignores an archive that does not fit its version or Spark's jars.
https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from conf.aws.connection import S3Connection
from conf.errors import AppError
from conf.loading import load_settings
from conf.spark import java_process, s3_client
from conf.spark.session import CLASS_ARCHIVE, local_java_options, start_session

_KEYS = {
    "fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
    "fs.s3a.access.key": "none",
    "fs.s3a.secret.key": "none",
}


def _unchanged(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
    return batches


def _use_spark(spark: SparkSession, folder: Path) -> None:
    """Make Spark load the classes that a stream needs: for a query over JSON files, Arrow in workers, and Parquet."""

    def work(batch: DataFrame, _: int) -> None:
        spark.createDataFrame(batch.toArrow()).mapInArrow(_unchanged, "number long").toArrow()

    (folder / "log").mkdir()
    (folder / "log" / "1").write_text('{"number": 1}\n')
    numbers = spark.readStream.format("json").schema("number long").load(str(folder / "log"))
    writer = numbers.writeStream.foreachBatch(work).option("checkpointLocation", str(folder / "checkpoint"))
    writer.trigger(availableNow=True).start().awaitTermination()
    spark.range(9).write.parquet(str(folder / "table"))
    spark.read.parquet(str(folder / "table")).collect()


class _EmptyStore(BaseHTTPRequestHandler):
    """An S3 server that accepts every object and stores none."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(404)

    def do_GET(self) -> None:
        self._answer(200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def do_POST(self) -> None:
        self.do_PUT()

    def do_DELETE(self) -> None:
        self._answer(204)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _use_s3(spark: SparkSession) -> None:
    """Make Spark load its client of S3, and the classes that it needs to read and to write."""
    context = spark.sparkContext
    assert context._jvm is not None  # noqa: SLF001 # PySpark has no public way
    with ThreadingHTTPServer(("127.0.0.1", 0), _EmptyStore) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = S3Connection(endpoint=f"http://127.0.0.1:{server.server_port}", region="us-east-1", attempts=1)
        configuration = context._jsc.hadoopConfiguration()  # noqa: SLF001 # as above
        for key, value in {**connection.spark_properties(), **_KEYS}.items():
            configuration.set(key.removeprefix("spark.hadoop."), value)
        file = context._jvm.org.apache.hadoop.fs.Path("s3a://bucket/folder/file")  # noqa: SLF001 # as above
        store = file.getFileSystem(configuration)
        store.create(file).close()
        store.exists(file)
        store.close()
        server.shutdown()


def main() -> int:
    """Install both; a failure is reported and only makes later starts slower."""
    try:
        s3_client.install()
    except (AppError, OSError, Py4JError) as failure:
        sys.stderr.write(f"Spark's client of S3 will be fetched when it is first used: {failure}\n")
    part = CLASS_ARCHIVE.with_suffix(".part")
    part.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings({"log.folder": folder})
        java = f'{local_java_options(Path(folder, "spark.log"))} -XX:ArchiveClassesAtExit="{part}"'
        try:
            spark = start_session("class-archive", settings, {"spark.driver.defaultJavaOptions": java})
            _use_spark(spark, Path(folder))
            if s3_client.is_installed():
                with suppress(
                    AppError, Py4JError
                ):  # AWS settings of the user that cannot be used; the rest is worth it
                    _use_s3(spark)
            spark.stop()
            java_process.end(seconds=120)  # and write the archive
            part.rename(CLASS_ARCHIVE)
        except (AppError, OSError, PySparkException, Py4JError) as failure:
            sys.stderr.write(f"no archive of Spark's classes, so it starts 4 s slower: {failure}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
