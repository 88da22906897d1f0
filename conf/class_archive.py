"""An archive of the Java classes that Spark loads at every start, which takes a fifth off the time of a short replay.

    python -m conf.class_archive

`make setup` makes it, for the programs that run Spark locally. Java itself refuses one that does not fit its version or
Spark's jars any more, and starts without. https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from conf.errors import AppError
from conf.loading import load_settings
from conf.session import CLASS_ARCHIVE, local_java_options, start_session


def _unchanged(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
    return batches


def _use_spark(spark: SparkSession, folder: Path) -> None:
    """Let Spark load what a stream needs: a query over JSON files, Arrow to and from workers, Parquet."""

    def work(batch: DataFrame, _: int) -> None:
        spark.createDataFrame(batch.toArrow()).mapInArrow(_unchanged, "number long").toArrow()

    (folder / "log").mkdir()
    (folder / "log" / "1").write_text('{"number": 1}\n')
    numbers = spark.readStream.format("json").schema("number long").load(str(folder / "log"))
    writer = numbers.writeStream.foreachBatch(work).option("checkpointLocation", str(folder / "checkpoint"))
    writer.trigger(availableNow=True).start().awaitTermination()
    spark.range(9).write.parquet(str(folder / "table"))
    spark.read.parquet(str(folder / "table")).collect()


def main() -> int:
    """Make the archive; what prevents it is said, and harms nothing but the time of a start."""
    part = CLASS_ARCHIVE.with_suffix(".part")
    part.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings({"log.folder": folder})
        java = f'{local_java_options(Path(folder))} -XX:ArchiveClassesAtExit="{part}"'
        try:
            spark = start_session("class-archive", settings, {"spark.driver.extraJavaOptions": java})
            gateway = spark.sparkContext._gateway  # noqa: SLF001 # the only way to the process that has to exit
            assert gateway is not None
            _use_spark(spark, Path(folder))
            spark.stop()
            gateway.shutdown()
            gateway.proc.stdin.close()  # the JVM ends when its parent is gone, and writes the archive then
            gateway.proc.wait(timeout=120)
            part.rename(CLASS_ARCHIVE)
        except (AppError, OSError, PySparkException, Py4JError, subprocess.TimeoutExpired) as failure:
            sys.stderr.write(f"no archive of Spark's classes, so it starts 4 s slower: {failure}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
