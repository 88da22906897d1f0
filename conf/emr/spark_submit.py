"""The arguments of spark-submit for each verb, on YARN and on EMR Serverless.

Nothing is called: the same settings and locations give the same arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conf.errors import SettingsError
from conf.settings import Settings

LAUNCHER = "launch.py"
CONFIG = "emr.yaml"
LOG4J = "log4j2.properties"
CONVERTED_BACKBONE = "backbone.tflite"
ARCHIVE = "dependencies"
"""The names under which every container finds the files and the unpacked archive, beside its own."""
METRICS_GROUP = "PICTURE_FEATURES_LOG__METRICS_GROUP"
"""The variable of the setting log.metrics_group: the log group is the stack's, and not of a settings file."""


@dataclass(frozen=True)
class Program:
    """The program of a verb.

    Attributes:
        module: `python -m MODULE`.
        verb: its verb.
        places: the flags that take a location.
        streams: whether it runs until it is stopped.
        fits: whether it needs the converted backbone, as it reads pictures and writes a model.
    """

    module: str
    verb: str
    places: tuple[str, ...]
    streams: bool = False
    fits: bool = False


SUBMITTED: Mapping[str, Program] = {
    "run": Program("streaming", "run", ("input", "models", "output", "queue"), streams=True),
    "replay": Program("streaming", "replay", ("input", "models", "output")),
    "reconcile": Program("streaming", "reconcile", ("input", "output")),
    "export": Program("streaming", "export", ("output",)),
    "fit": Program("batch_fit", "fit", ("input", "models"), fits=True),
    "refit": Program("batch_fit", "fit", ("embeddings", "models")),
}


@dataclass(frozen=True)
class Locations:
    """The locations of everything.

    Attributes:
        application: the folder with what `package` built: launch.py, application.zip, dependencies.zip, emr.yaml,
            log4j2.properties and, for a fit, backbone.tflite. A URI that Spark can read, like
            s3://BUCKET/application/x86_64.
        input, models, output: URIs.
        region: of AWS, where all of this is; a container has no other way to know it.
        queue: the URL of the SQS queue; None follows the input by listing.
        log_group: of CloudWatch, for the metrics; None sends none.
        snapshots: the folder to which a scheduled export writes.
        table: DATABASE.TABLE of Glue, which a scheduled export points at its snapshot.
        python: the interpreter of the nodes, for which the dependencies were built.
    """

    application: str
    input: str
    models: str
    output: str
    region: str
    queue: str | None = None
    log_group: str | None = None
    snapshots: str | None = None
    table: str | None = None
    python: str = "python3.11"

    @property
    def embeddings(self) -> str:
        """Whose embeddings a refit reads."""
        return self.output


# For driver and executors. A worker takes 184 MB for small pictures and up to 1 GB for one of 50 megapixels; there is
# one per core. The memory of Python is the overhead beside Java's heap: a limit of its own
# (spark.executor.pyspark.memory) would bound addresses, of which the backbone reserves more than it uses.
# Both containers together fit what YARN has on a node of 4 cores and 16 GB.
_EVERYWHERE = {
    "spark.executor.cores": "4",
    "spark.executor.memory": "2g",
    "spark.executor.memoryOverhead": "5g",
    "spark.driver.memory": "2g",
    "spark.driver.memoryOverhead": "3g",  # the driver's Python knows each picture by 16 bytes
    "spark.dynamicAllocation.enabled": "true",
    "spark.dynamicAllocation.minExecutors": "1",
    "spark.executorEnv.PYTHONPATH": ARCHIVE,
}
_ON_YARN = {
    "spark.yarn.appMasterEnv.PYTHONPATH": ARCHIVE,
    # YARN puts in the folder whose files it collects; the working folder is thrown away.
    "spark.yarn.appMasterEnv.PICTURE_FEATURES_LOG__FOLDER": "<LOG_DIR>",
    "spark.yarn.appMasterEnv.TMPDIR": "tmp",  # in the working folder, where Java's is: YARN deletes it
    "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={LOG4J}",
    "spark.executor.extraJavaOptions": f"-Dlog4j2.configurationFile={LOG4J}",
}
# A stream that fails now and then over years must not use up its attempts: those older than an hour do not count.
_STREAM_ON_YARN = {
    "spark.yarn.maxAppAttempts": "4",
    "spark.yarn.am.attemptFailuresValidityInterval": "1h",
    "spark.executor.failuresValidityInterval": "1h",
    # Spark writes it to HDFS, where that of a stream would grow until the disks are full.
    "spark.eventLog.enabled": "false",
}
_BATCH_ON_YARN = {"spark.yarn.maxAppAttempts": "1"}  # who submitted it decides whether to try again
# Idle between two micro-batches is no reason to give an executor back, and start one again half a minute later. So none
# is asked for while the first workers start: only work that still waits after half a minute is worth another one.
_STREAM = {
    "spark.dynamicAllocation.executorIdleTimeout": "10min",
    "spark.dynamicAllocation.schedulerBacklogTimeout": "30s",
    "spark.dynamicAllocation.sustainedSchedulerBacklogTimeout": "2s",
}


def spark_submit_arguments(verb: str, settings: Settings, locations: Locations, extra: Sequence[str] = ()) -> list[str]:
    """All that follows `spark-submit`, for YARN in cluster mode.

    Args:
        verb: a key of `SUBMITTED`.
        settings: of the cluster's emr.yaml; its `spark.conf` wins over everything here.
        locations: where everything is.
        extra: more arguments for the program.

    Raises:
        SettingsError: there is no such verb.
    """
    program = program_of(verb)
    properties = properties_of(program) | _ON_YARN | (_STREAM_ON_YARN if program.streams else _BATCH_ON_YARN)
    properties["spark.pyspark.python"] = locations.python
    properties |= {f"spark.yarn.appMasterEnv.{name}": value for name, value in driver_environment(locations).items()}
    base = locations.application.replace("s3://", "s3a://", 1)  # Hadoop's own client, whatever s3: means on a release
    return [
        *("--master", "yarn", "--deploy-mode", "cluster"),
        *("--name", f"picture-features {verb}"),
        *("--py-files", f"{base}/application.zip"),
        *("--archives", f"{base}/dependencies.zip#{ARCHIVE}"),
        *("--files", ",".join(f"{base}/{name}" for name in (*files_of(program), LOG4J))),
        *as_conf(properties | settings.spark.conf),
        f"{base}/{LAUNCHER}",
        *program_arguments(program, locations, extra),
    ]


def program_of(verb: str) -> Program:
    """The program of a verb by its name.

    Raises:
        SettingsError: there is no such verb.
    """
    if verb not in SUBMITTED:
        raise SettingsError(f"submit: there is no {verb!r}; choose from {', '.join(SUBMITTED)}")
    return SUBMITTED[verb]


def files_of(program: Program) -> tuple[str, ...]:
    """The files that the program finds beside it."""
    return (CONFIG, CONVERTED_BACKBONE) if program.fits else (CONFIG,)


def properties_of(program: Program) -> dict[str, str]:
    """Spark's properties wherever the program runs. None is about a committer: EMR has one of its own."""
    return _EVERYWHERE | (_STREAM if program.streams else {})


def driver_environment(locations: Locations) -> dict[str, str]:
    """The environment that a container cannot know otherwise; the driver tells the executors."""
    return {"AWS_REGION": locations.region} | ({METRICS_GROUP: locations.log_group} if locations.log_group else {})


def program_arguments(program: Program, locations: Locations, extra: Sequence[str]) -> list[str]:
    """The words after the launcher: the module, its verb, the locations."""
    arguments = [program.module, program.verb, "--config", CONFIG]
    for place in program.places:
        value = getattr(locations, place)
        if value is None:
            continue
        arguments += [f"--{place}", value]
        if place == "queue":
            arguments += ["--discovery", "events"]
    if program.fits:
        arguments += ["--weights", CONVERTED_BACKBONE]
    return [*arguments, *extra]


def scheduled(locations: Locations) -> dict[str, tuple[str, ...]]:
    """The programs that come by themselves, with what each is told besides.

    replay drains the queue, or lists the input without one, and ends at once where another run holds the lease. refit
    takes a sample of the whole history, and its model becomes the current one only if it is not worse.
    """
    assert locations.snapshots
    assert locations.table
    return {
        "replay": (*_drained(locations), "--skip-if-running"),
        "refit": ("--limit", "100000", "--promote", "if-not-worse"),
        "reconcile": ("--enqueue",),
        "export": ("--to", locations.snapshots, "--keep", "7", "--glue-table", locations.table),
    }


def by_hand(verb: str, settings: Settings, locations: Locations, more: Sequence[str]) -> tuple[str, ...]:
    """What a program that a person starts is told besides, with the words of that person last, which win.

    replay drains the queue as the scheduled one does, or what waits there would wait on; but it fails where another run
    holds the lease, which a person wants to know. An export for which nobody names a place goes where the scheduled one
    does: without a place it would start, be paid, and fail.

    Raises:
        SettingsError: an export of CSV for which nobody names a place; readers of the scheduled ones take Parquet.
    """
    defaults: tuple[str, ...] = ()
    if verb == "replay" and not _is_given("--discovery", more):
        defaults = _drained(locations)
    if verb == "export" and locations.snapshots and not (settings.export.to or _is_given("--to", more)):
        if settings.export.format == "csv" or {"csv", "--format=csv"} & {*more}:
            raise SettingsError(
                f"submit export: {locations.snapshots} is for Parquet; give CSV a folder of its own: -- --to s3://..."
            )
        defaults = ("--to", locations.snapshots)
    return (*defaults, *more)


def _drained(locations: Locations) -> tuple[str, ...]:
    """For a replay that takes what the queue has, if there is one."""
    return ("--discovery", "events", "--queue", locations.queue) if locations.queue else ()


def _is_given(flag: str, words: Sequence[str]) -> bool:
    return any(word == flag or word.startswith(f"{flag}=") for word in words)


def as_conf(properties: Mapping[str, str]) -> list[str]:
    """`--conf KEY=VALUE` for each, in a stable order."""
    return [part for key in sorted(properties) for part in ("--conf", f"{key}={properties[key]}")]
