"""Tells people of micro-batches: `run` logs a line for each, `replay` shows a progress bar and a summary."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from conf.answers import Answer, Row, reading
from conf.plural import plural
from conf.spark.progress import bar
from conf.spark.ticks import Ticks
from streaming.output.batch_report import Backlog, BatchReport

_logger = logging.getLogger(__name__)


def log_batch(report: BatchReport, more: Mapping[str, object]) -> None:
    """Log a micro-batch, with the fields `more` for machines."""
    quarantined = report.quarantined.total()
    _logger.info(
        "%s, %d quarantined%s, %.0f/s, %.1fs behind, model %s%s",
        plural(report.pictures, "picture"),
        quarantined,
        f" ({_counted(report.quarantined)})" if quarantined else "",
        report.pictures / report.seconds,
        report.seconds_behind,
        report.model_version,
        "" if report.drift is None else f", drift {report.drift:.2f}",
        extra={
            "data": {
                "manifest": report.manifest,
                "pictures": report.pictures,
                "quarantined": dict(report.quarantined),
                "pictures_per_second": round(report.pictures / report.seconds, 1),
                "seconds_behind": round(report.seconds_behind, 3),
                "model_version": report.model_version,
                "drift": report.drift,
                **more,
            }
        },
    )


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())


@dataclass(frozen=True)
class Idle(Answer):
    """A replay that found nothing to do.

    Attributes:
        output: canonical path.
        reason: for people.
        pictures: that were featurized or quarantined.
    """

    output: str
    reason: str
    pictures: int = 0

    def rows(self) -> Iterator[Row]:
        """The reason."""
        yield self.reason


@dataclass(frozen=True)
class Replayed(Answer):
    """The result of a replay.

    Attributes:
        output: canonical path.
        pictures: that were featurized or quarantined.
        seconds: the duration.
        quarantined: of the pictures, by reason, the most frequent first.
        models: the versions that were used.
        left: pictures that were found and not done, because the replay was stopped.
        unsettled: pictures that may still be being written.
    """

    output: str
    pictures: int
    seconds: float
    quarantined: dict[str, int]
    models: Sequence[str]
    left: int
    unsettled: int

    def rows(self) -> Iterator[Row]:
        """The pictures that were featurized, quarantined and left."""
        yield "pictures", f"{self.pictures:,} in {self.seconds:.1f}s ({self.pictures / self.seconds:,.0f} pictures/s)"
        quarantined = sum(self.quarantined.values())
        yield "features", f"{plural(self.pictures - quarantined, 'row')} in {self.output}/features"
        reasons = _counted(Counter(self.quarantined))
        where = f" ({reasons}), rows in {self.output}/quarantine" if reasons else ""
        yield "quarantined", f"{quarantined:,}{where}"
        yield "model", ", ".join(self.models)
        if self.left:
            yield "stopped", f"with {plural(self.left, 'picture')} left; replay again to go on"
        if self.unsettled:
            yield "left out", f"{self.unsettled:,} still being written; replay again to add them"

    def next_step(self) -> str:
        """To read the table."""
        return reading(f"{self.output}/features")


class ReplayProgress:
    """The bar while a replay runs, and the summary after it."""

    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks
        self._bar = ExitStack()
        self._started = time.monotonic()
        self._quarantined: Counter[str] = Counter()
        self._pictures = 0
        self._models: dict[str, None] = {}
        self._unsettled = self._total = 0

    def begin(self, backlog: Backlog) -> None:
        """Show the bar."""
        self._started = time.monotonic()
        self._unsettled, self._total = backlog.unsettled, backlog.pictures
        self._bar.enter_context(bar(self._total, "pictures", lambda: self._ticks.count(self._pictures, self._total)))

    def advance(self, report: BatchReport) -> None:
        """Count a micro-batch."""
        self._pictures += report.pictures
        self._quarantined += report.quarantined
        self._models[report.model_version] = None

    def end(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def warn(self) -> None:
        """Warn if no picture could be used: then the input as a whole is probably wrong."""
        if self._pictures and self._quarantined.total() == self._pictures:
            _logger.warning(
                "none of %s could be used (%s): check --input, and the details in quarantine",
                plural(self._pictures, "picture"),
                _counted(self._quarantined),
            )

    def summary(self, output: str, left: int) -> Replayed:
        """The result."""
        return Replayed(
            output=output,
            pictures=self._pictures,
            seconds=time.monotonic() - self._started,
            quarantined=dict(self._quarantined.most_common()),
            models=list(self._models),
            left=left,
            unsettled=self._unsettled,
        )
