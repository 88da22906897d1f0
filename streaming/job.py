"""The streaming job: discovery, the query over the manifest log, and the sink, wired together.

It owns what runs when, and how it ends; it must not know how any part does its work.
"""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from conf.errors import SettingsError
from conf.session import start_session
from conf.settings import Settings
from streaming import derivatives, manifests
from streaming.ahead import Ahead
from streaming.batch_report import Backlog, BatchReport
from streaming.derivatives import Derivative
from streaming.discovery import Discoverer, DiscoveryThread, ListingDiscoverer
from streaming.drift import DriftMonitor
from streaming.epoch_loop import EpochLoop
from streaming.epochs import Epochs
from streaming.events import EventsDiscoverer, check_interval
from streaming.executors import Executors
from streaming.features.registry import Registry
from streaming.features.storage import is_on_s3
from streaming.known import check_log
from streaming.lease import Lease
from streaming.manifest_writer import ManifestWriter, withdraw_repeating
from streaming.microbatch import MicroBatches
from streaming.models import ModelSource
from streaming.notice import Notice
from streaming.places import Places
from streaming.signals import drain_on_signal
from streaming.sink import ParquetSink

_logger = logging.getLogger(__name__)

_PICTURES_PER_SLOT = 1000


class StreamJob:
    """One tenure of an output, which `open_job` begins and ends.

    Attributes:
        stop: set it to finish the micro-batch in work and end.
    """

    def __init__(
        self, settings: Settings, places: Places, lease: Lease, notice: Notice, on_report: Callable[[BatchReport], None]
    ) -> None:
        self.stop = threading.Event()
        self._on_look: Callable[[bool], None] = lambda busy: None
        self._settings = settings
        self._places = places
        self._lease = lease
        self._notice = notice
        self._on_report = on_report
        self._registry = Registry(places.models)
        self._sink = ParquetSink(places.output)
        refit = (
            f"python -m batch_fit fit --input {shlex.quote(places.source)} --models {shlex.quote(places.models.root)}"
        )
        self._drift = DriftMonitor(settings.stream.drift_threshold, refit)
        places.output.remove_leftovers()
        self._sink.prepare()
        derivatives.record(places.output, Derivative("models", places.models.root))
        manifests.prepare_log(places.output)
        self._epochs = Epochs(places.checkpoint, places.output, self._sink, notice.hold)
        check_log(places.output)
        known = withdraw_repeating(places.output, self._sink.unfinished(), notice.hold)
        self._writer = ManifestWriter(places.output, known, lease.check, notice.hold, self.stop)
        self._listing = ListingDiscoverer(places.source, places.list_input, self._writer, settings.stream.settle)

    def is_idle(self) -> bool:
        """Whether everything in the input is in the tables already. It needs no Spark.

        Raises:
            InputError: the input has no pictures, or cannot be listed.
        """
        return not self._sink.unfinished() and not self._listing.has_new()

    def explain_idle(self) -> str:
        """Why there is nothing to do, and how to featurize the same pictures anew."""
        current = self._registry.current()
        used = self._sink.latest_model()
        lines = [f"nothing new: every picture in {self._places.source} is in {self._places.output.root} already"]
        if used and used != current:
            lines.append(
                f"the latest were featurized with {used}, and the current model is {current}; "
                "to featurize all with it, replay into a new output: --output NEW"
            )
        return "\n".join(lines)

    def follow(self, on_look: Callable[[bool], None]) -> None:
        """Featurize what arrives until told to stop.

        Args:
            on_look: told several times a second whether a micro-batch is in work.
        """
        self._on_look = on_look
        discoverer = self._choose_discoverer()
        with self._session() as spark:
            _logger.info("watching %s; Ctrl-C, or python -m streaming stop, ends it", self._places.source)
            discovery = DiscoveryThread(discoverer, self._max_pictures(spark), self._settings.stream.interval)
            try:
                self._run_queries(spark, discovery, available_now=False)
            finally:
                discovery.stop()

    def replay(self, on_backlog: Callable[[Backlog], None]) -> None:
        """Featurize what is there now."""
        with self._session() as spark:
            look = self._listing.look_until_settled(self._max_pictures(spark))
            pictures = sum(len(manifests.read_manifest(self._places.output, one)) for one in self._sink.unfinished())
            on_backlog(Backlog(pictures, look.unsettled))
            self._run_queries(spark, None, available_now=True)

    def _choose_discoverer(self) -> Discoverer:
        """What the settings ask for.

        Raises:
            SettingsError: events cannot be had here.
            StorageError: the queue cannot be used.
        """
        stream, source = self._settings.stream, self._places.source
        if stream.discovery == "listing":
            return self._listing
        if not is_on_s3(source):
            raise SettingsError(
                f"stream.discovery: events are of pictures on S3, and the input is {source}; use listing"
            )
        if stream.queue is None:
            raise SettingsError(
                "stream.queue: is missing; give --queue URL of the SQS queue that gets the events of S3"
            )
        from streaming.sqs import Queue  # noqa: PLC0415 - with botocore beneath it, which local files have no use for

        queue = Queue(stream.queue, self._places.connection)
        check_interval(stream.interval, queue)
        return EventsDiscoverer(source, queue, self._listing, self._writer, self._places.output)

    def _run_queries(self, spark: SparkSession, discovery: DiscoveryThread | None, *, available_now: bool) -> None:
        """Featurize with the current model until told to stop or, with `available_now`, until nothing is left."""
        models = ModelSource(spark.sparkContext, self._registry, self._settings)
        current = models.current().version  # one that cannot be used must end the program now, not at a picture
        if (used := self._sink.latest_model()) and used != current:
            _logger.warning(
                "the output holds features of model %s, the new rows are of %s: compare rows of one model_version only",
                used,
                current,
            )
        ahead = Ahead(Executors(spark), self._writer.read_next)

        def new_batches() -> MicroBatches:
            return MicroBatches(
                ahead,
                models,
                self._drift,
                self._sink,
                self._lease.check,
                self._writer.admit,
                self._epochs.check_missing,
                self._on_report,
                self._notice.hold,
            )

        loop = EpochLoop(
            self._places.output,
            self._epochs,
            self._writer,
            self._lease,
            self.stop,
            self._settings.stream.epoch_manifests,
            new_batches,
            self._on_look,
        )
        try:
            loop.run(spark, discovery, available_now=available_now)
        finally:
            ahead.close()

    def _max_pictures(self, spark: SparkSession) -> int:
        return self._settings.stream.max_pictures or _PICTURES_PER_SLOT * spark.sparkContext.defaultParallelism

    @contextmanager
    def _session(self) -> Iterator[SparkSession]:
        spark = start_session("picture-features", self._settings, self._places.spark_properties())
        try:
            with drain_on_signal(self.stop):
                yield spark
        finally:
            spark.stop()


@contextmanager
def open_job(settings: Settings, on_report: Callable[[BatchReport], None]) -> Iterator[StreamJob]:
    """Check everything that can be checked without Spark, take the lease, and give it back at the end.

    Raises:
        AppError: anything that makes it pointless to start Spark.
    """
    places = Places.of(settings)
    Registry(places.models).current()
    next(places.list_input(lambda path, why: None), None)  # whether it can be listed
    with Lease(places.output, settings.stream.lease) as lease, Notice(places.output, lease.holder.id) as notice:
        yield StreamJob(settings, places, lease, notice, on_report)
