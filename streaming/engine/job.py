"""The streaming job: wires discovery, the query over the manifest log and the tables together, and ends them."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from functools import cached_property

from pyspark.sql import SparkSession

from conf.aws.connection import S3Connection
from conf.errors import SettingsError
from conf.interrupts import draining
from conf.settings import Settings
from conf.spark.session import spark_session
from streaming.discovery.by_events import EventsDiscoverer, check_interval
from streaming.discovery.by_listing import Discoverer, DiscoveryThread, ListingDiscoverer, Look
from streaming.discovery.drain import Drain
from streaming.discovery.messages import Sorter
from streaming.engine.checkpoint import Epochs
from streaming.engine.drift import DriftMonitor
from streaming.engine.executors import Executors
from streaming.engine.loop import EpochLoop, Following
from streaming.engine.microbatch import MicroBatches
from streaming.engine.prefetch import Prefetch
from streaming.engine.serving import ModelSource
from streaming.lease.lease import Looked, read_holder
from streaming.lease.tenure import Tenure
from streaming.lease.yarn import this_attempt
from streaming.output import lineage, manifests
from streaming.output.batch_report import Backlog, BatchReport
from streaming.output.format_number import begin_format
from streaming.output.inbox import Inbox
from streaming.output.known import check_log
from streaming.output.lineage import Derivative
from streaming.output.manifest_log import ManifestLog
from streaming.output.places import StreamPlaces
from streaming.output.recovery import recover
from streaming.output.tables import Tables, unfinished
from streaming.registry.registry import Registry
from streaming.storage.locations import is_on_s3, open_folder

_logger = logging.getLogger(__name__)

_PICTURES_PER_SLOT = 1000
_PICTURES = 100_000
_PICTURES_WITH_EMBEDDINGS = 20_000  # of 5 kB each, in this process and in Java's heap, two manifests at a time


class StreamJob:
    """The work of `run` and `replay` in one tenure, which `open_job` begins and ends."""

    def __init__(
        self,
        settings: Settings,
        places: StreamPlaces,
        tenure: Tenure,
        log: ManifestLog,
        epochs: Epochs,
        on_report: Callable[[BatchReport], None],
    ) -> None:
        self._settings = settings
        self._places = places
        self._tenure = tenure
        self._log = log
        self._epochs = epochs
        self._on_report = on_report
        self._registry = Registry(places.models)
        self._tables = Tables(places.output)
        self._inbox = Inbox(log)
        self._interval: float | None = None
        self._looked = time.monotonic()
        self._listing = ListingDiscoverer(places.input, log, self._inbox, settings.stream.settle, self._note_look)

    def is_idle(self) -> bool:
        """Whether everything that can be found is in the tables already. It needs no Spark.

        Raises:
            SettingsError: pictures cannot be found as the settings ask for.
            InputError: the input has no pictures, or cannot be listed.
            StorageError: the queue cannot be used.
        """
        return not unfinished(self._places.output) and not self._discoverer.has_new()

    def explain_idle(self) -> str:
        """The reason why there is nothing to do, and how to featurize the same pictures with another model."""
        if self._tenure.should_stop():
            return "stopped as asked; what is still in the queue is for the next run"
        current = self._registry.current()
        used = self._tables.latest_model()
        lines = [f"nothing new: {self._discoverer.explain_none()}"]
        if used and used != current:
            lines.append(
                f"the latest were featurized with {used}, and the current model is {current}; "
                "to featurize all with it, replay into a new output: --output NEW"
            )
        return "\n".join(lines)

    def follow(self, on_look: Callable[[bool], None]) -> None:
        """Featurize what arrives until told to stop; `on_look` is told whether a micro-batch is running."""
        discoverer = self._discoverer
        with self._session() as spark:
            interval = self._settings.stream.interval
            self._interval, self._looked = interval.total_seconds(), time.monotonic()
            _logger.info("watching %s; Ctrl-C, or python -m streaming stop, ends it", self._places.input.root)
            with DiscoveryThread(discoverer, self._max_pictures(spark), interval) as discovery:
                try:
                    self._run_queries(spark, Following(discovery, on_look))
                finally:
                    self._tenure.stop.set()  # or discovery would wait on for a store that fails

    def replay(self, on_backlog: Callable[[Backlog], None]) -> None:
        """Featurize the pictures that can be found now."""
        output, discoverer = self._places.output, self._discoverer
        with self._session() as spark:
            look = discoverer.catch_up(self._max_pictures(spark))
            pictures = sum(len(manifests.read_manifest(output, one)) for one in unfinished(output))
            on_backlog(Backlog(pictures, look.unsettled))
            self._run_queries(spark, None)

    @cached_property
    def _discoverer(self) -> Discoverer:
        """The discoverer that the settings ask for.

        Raises:
            SettingsError: events need an input on S3, and a queue.
            StorageError: the queue cannot be used.
        """
        stream, source = self._settings.stream, self._places.input
        if stream.discovery == "listing":
            return self._listing
        if not is_on_s3(source.root):
            raise SettingsError(
                f"stream.discovery: events are of pictures on S3, and the input is {source.root}; use listing"
            )
        if stream.queue is None:
            raise SettingsError(
                "stream.queue: is missing; give --queue URL of the SQS queue that gets the events of S3"
            )
        from streaming.discovery.sqs import Queue  # noqa: PLC0415 - imports botocore, which local files do not need

        queue = Queue(stream.queue, self._places.connection)
        check_interval(stream.interval, queue)
        drain = Drain(queue, Sorter(source), stream.interval, self._tenure.should_stop)
        return EventsDiscoverer(source, drain, self._listing, self._log, self._inbox, self._note_look)

    def _note_look(self, look: Look) -> None:
        """Have the lease record a look, for `status`; a scan that takes longer than the interval extends the period."""
        former, self._looked = self._looked, time.monotonic()
        period = None if self._interval is None else max(self._interval, self._looked - former)
        self._tenure.note_look(Looked(at=datetime.now(UTC), period=period, unsettled=look.unsettled))

    def _run_queries(self, spark: SparkSession, following: Following | None) -> None:
        """Featurize with the current model until told to stop or, if nothing is followed, until nothing is left."""
        models = ModelSource(spark.sparkContext, self._registry, self._settings)
        current = models.current().version  # an unusable model must end the program now, not at a picture
        if (used := self._tables.latest_model()) and used != current:
            _logger.warning(
                "the output holds features of model %s, the new rows are of %s: compare rows of one model_version only",
                used,
                current,
            )
        drift = DriftMonitor(self._settings.stream.drift_threshold, self._refit())
        with closing(Prefetch(Executors(spark), models, self._log.read_next)) as prefetch:

            def new_batches() -> MicroBatches:
                return MicroBatches(self._tenure, self._log, self._epochs, prefetch, drift, self._on_report)

            limit = self._settings.stream.epoch_manifests
            loop = EpochLoop(self._tenure, self._epochs, self._log, self._inbox, limit, new_batches)
            with draining(self._tenure.stop.set):
                loop.run(spark, following)

    def _refit(self) -> str:
        """The command that fits another model."""
        kept = self._settings.stream.embeddings == "keep"
        source = ("--embeddings", self._places.output.root) if kept else ("--input", self._places.input.root)
        return shlex.join(("python", "-m", "batch_fit", "fit", *source, "--models", self._places.models.root))

    def _max_pictures(self, spark: SparkSession) -> int:
        stream, slots = self._settings.stream, spark.sparkContext.defaultParallelism
        most = _PICTURES_WITH_EMBEDDINGS if stream.embeddings == "keep" else _PICTURES
        return stream.max_pictures or min(_PICTURES_PER_SLOT * slots, most)

    def _session(self) -> AbstractContextManager[SparkSession]:
        return spark_session("picture-features", self._settings, self._places.spark_properties())


def end_without_work(settings: Settings) -> None:
    """Give YARN the Spark session that it waits for: to YARN, an application that ends without one has failed."""
    if this_attempt():
        with spark_session("picture-features", settings, {}):
            pass


def skip(settings: Settings) -> str:
    """End without work, because another stream writes to the output; returns who that is."""
    end_without_work(settings)
    output = open_folder(settings.output or "", S3Connection.of(settings.s3))
    holder, _ = read_holder(output)
    return f"another stream, {holder}, is running on {output.root}; nothing to do"


@contextmanager
def open_job(settings: Settings, on_report: Callable[[BatchReport], None]) -> Iterator[StreamJob]:
    """Check everything that can be checked without Spark, take the lease, and release it at the end.

    Raises:
        AppError: a check failed, so that Spark need not be started.
    """
    places = StreamPlaces.of(settings)
    Registry(places.models).current()
    next(places.input.pictures(lambda path, why: None), None)  # whether it can be listed
    begin_format(places.output)
    with Tenure(places.output, settings.stream.lease) as tenure:
        _prepare(places, keeps_embeddings=settings.stream.embeddings == "keep")
        epochs = Epochs(tenure, places.checkpoint)
        epochs.open()
        check_log(places.output)
        log = ManifestLog(tenure, recover(tenure))
        yield StreamJob(settings, places, tenure, log, epochs, on_report)


def _prepare(places: StreamPlaces, *, keeps_embeddings: bool) -> None:
    """Create what an output needs: tables, manifest log, and the record of its registry; and delete leftovers."""
    places.output.remove_leftovers()
    Tables(places.output, with_embeddings=keeps_embeddings).prepare()
    lineage.record(places.output, Derivative("models", places.models.root))
    manifests.prepare_log(places.output)
