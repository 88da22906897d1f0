"""The streaming job: wires discovery, the query over the manifest log and the tables together, and ends them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING

from conf.answers import command
from conf.aws.connection import S3Connection
from conf.errors import SettingsError
from conf.settings import Settings
from conf.spark.session import spark_session, starting_session
from conf.spark.ticks import Ticks
from conf.spark.worker_daemon import preloading
from streaming.discovery.by_events import EventsDiscoverer, check_interval
from streaming.discovery.by_listing import Discoverer, DiscoveryThread, ListingDiscoverer, Look
from streaming.discovery.drain import Drain
from streaming.discovery.messages import Sorter
from streaming.engine.opening import Held, Opened, holding, open_held
from streaming.features.workers import MODULES
from streaming.lease.holder import Looked, read_holder
from streaming.lease.yarn import this_attempt
from streaming.output import manifests
from streaming.output.batch_report import Backlog, BatchReport
from streaming.output.tables import Tables, unfinished
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import is_on_s3, open_folder

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from streaming.discovery.sqs import Queue
    from streaming.engine.queries import Queries
    from streaming.output.places import StreamPlaces

_logger = logging.getLogger(__name__)

_NAME = "picture-features"
_FIRST_LOOK = timedelta(hours=1)
_PICTURES_PER_SLOT = 2000  # each micro-batch costs a third of a second of CPU beside them
_PICTURES = 100_000
_PICTURES_WITH_EMBEDDINGS = 20_000  # of 5 kB each, in this process and in Java's heap, two manifests at a time


class StreamJob:
    """The work of `run` and `replay` on an opened output; `session` starts Spark, if it has not begun, and waits."""

    def __init__(
        self,
        opened: Opened,
        registry: Registry,
        queue: Queue | None,
        session: Callable[[], SparkSession],
        on_report: Callable[[BatchReport], None],
        ticks: Ticks,
    ) -> None:
        self._opened = opened
        self._registry = registry
        self._queue = queue
        self._session = session
        self._ticks = ticks
        self._settings = opened.settings
        self._places = opened.places
        self._tenure = opened.tenure
        self._on_report = on_report
        self._tables = Tables(opened.places.output)
        self._interval: float | None = None
        self._looked: Looked | None = None
        settle = opened.settings.stream.settle
        self._listing = ListingDiscoverer(opened.places.input, opened.log, opened.inbox, settle, self._note_look)

    def is_idle(self) -> bool:
        """Whether everything that can be found is in the tables already. It needs no Spark.

        Raises:
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
        """Featurize what arrives until told to stop.

        Args:
            on_look: told several times a second whether a micro-batch is running, unless looks for pictures fail.
        """

        def tell_look(busy: bool) -> None:  # noqa: FBT001 - an observation, not a switch
            # A stream that cannot look for pictures does not know whether it is behind. The first look may take long.
            now = datetime.now(UTC)
            if busy or (self._looked.is_recent(now) if self._looked else now < began + _FIRST_LOOK):
                on_look(busy)

        began = datetime.now(UTC)
        discoverer = self._discoverer
        spark = self._session()
        with self._queries(spark, unfinished(self._places.output)) as queries:
            interval = self._settings.stream.interval
            self._interval = interval.total_seconds()
            stop = command("streaming", "stop", "--output", self._places.output.root)
            _logger.info("watching %s; Ctrl-C, or %s, ends it", self._places.input.root, stop)
            with DiscoveryThread(discoverer, self._max_pictures(spark), interval) as discovery:
                try:
                    queries.follow(discovery, tell_look)
                finally:
                    self._tenure.stop.set()  # or discovery would wait on for a store that fails

    def replay(self, on_backlog: Callable[[Backlog], None]) -> int:
        """Featurize the pictures that can be found now; returns how many are left, if it was told to stop."""
        output, discoverer = self._places.output, self._discoverer
        spark = self._session()
        _logger.info("finding the pictures of %s", self._places.input.root)
        look = discoverer.catch_up(self._max_pictures(spark))
        waiting = unfinished(output)
        on_backlog(Backlog(_pictures_in(output, waiting), look.unsettled))
        with self._queries(spark, waiting) as queries:
            queries.drain()
        return _pictures_in(output, unfinished(output))

    @cached_property
    def _discoverer(self) -> Discoverer:
        """The discoverer that the settings ask for."""
        if self._queue is None:
            return self._listing
        source = self._places.input
        drain = Drain(self._queue, Sorter(source), self._settings.stream.interval, self._tenure.should_stop)
        return EventsDiscoverer(source, drain, self._listing, self._opened.log, self._opened.inbox, self._note_look)

    def _note_look(self, look: Look) -> None:
        """Have the lease record a look, for `status`; a scan that takes longer than the interval extends the period."""
        period = None if self._interval is None else max(self._interval, look.seconds)
        self._looked = Looked(at=datetime.now(UTC), period=period, unsettled=look.unsettled)
        self._tenure.note_look(self._looked)

    def _queries(self, spark: SparkSession, waiting: Sequence[str]) -> AbstractContextManager[Queries]:
        from streaming.engine.queries import open_queries  # noqa: PLC0415 - imports PySpark

        return open_queries(self._opened, spark, self._registry, waiting, self._on_report, self._ticks)

    def _max_pictures(self, spark: SparkSession) -> int:
        stream, slots = self._settings.stream, spark.sparkContext.defaultParallelism
        most = _PICTURES_WITH_EMBEDDINGS if stream.embeddings == "keep" else _PICTURES
        return stream.max_pictures or min(_PICTURES_PER_SLOT * slots, most)


def _pictures_in(output: Folder, waiting: Sequence[str]) -> int:
    return sum(len(listed) for _, listed in manifests.read_manifests(output, waiting))


def _open_queue(settings: Settings, places: StreamPlaces) -> Queue | None:
    """The queue whose events tell of pictures; None if they are found by listing.

    Raises:
        SettingsError: events need an input on S3, and a queue.
        StorageError: the queue cannot be used.
    """
    stream, source = settings.stream, places.input
    if stream.discovery == "listing":
        return None
    if not is_on_s3(source.root):
        raise SettingsError(
            f"stream.discovery: events are of pictures on S3, and the input is {source.root}; use listing"
        )
    if stream.queue is None:
        raise SettingsError("stream.queue: is missing; give --queue URL of the SQS queue that gets the events of S3")
    from streaming.discovery.sqs import Queue  # noqa: PLC0415 - imports botocore, which local files do not need

    queue = Queue(stream.queue, places.connection)
    check_interval(stream.interval, queue)
    return queue


def end_without_work(settings: Settings) -> None:
    """Give YARN the Spark session that it waits for: to YARN, an application that ends without one has failed."""
    if this_attempt():
        with spark_session(_NAME, settings, {}):
            pass


def skip(settings: Settings) -> str:
    """End without work, because another stream writes to the output; returns who that is."""
    end_without_work(settings)
    output = open_folder(settings.output or "", S3Connection.of(settings.s3))
    holder, _ = read_holder(output)
    return f"another stream, {holder}, is running on {output.root}; nothing to do"


@contextmanager
def open_job(
    settings: Settings,
    on_report: Callable[[BatchReport], None],
    ticks: Ticks | None = None,
    needs_spark: Callable[[Held], bool] = lambda held: False,
) -> Iterator[StreamJob]:
    """Open the output for this context, and with it the Spark session, once that is needed.

    Args:
        settings: of the program.
        on_report: called after each micro-batch.
        ticks: count the pictures as they are done, before a report has them.
        needs_spark: whether it is certain already, so that Spark starts while the output is opened.

    Raises:
        AppError: a check failed, so that Spark need not be started.
    """
    with holding(settings) as held, ExitStack() as ends:
        registry = Registry(held.places.models)
        queue = _open_queue(settings, held.places)
        properties = held.places.spark_properties() | preloading(*MODULES)

        @cache
        def begin() -> Callable[[], SparkSession]:
            registry.read_ahead()
            return ends.enter_context(starting_session(_NAME, settings, properties))

        def session() -> SparkSession:
            return begin()()

        if needs_spark(held):
            begin()
        yield StreamJob(open_held(held), registry, queue, session, on_report, ticks or Ticks())
