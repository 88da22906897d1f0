"""Opens an output for a stream: checks everything that can be checked without Spark, and takes the lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from conf.settings import Settings
from streaming.engine.checkpoint import Epochs
from streaming.lease.tenure import Tenure
from streaming.output import lineage, manifests
from streaming.output.format_number import begin_format
from streaming.output.inbox import Inbox
from streaming.output.known import check_log
from streaming.output.lineage import Derivative
from streaming.output.manifest_log import ManifestLog
from streaming.output.places import StreamPlaces
from streaming.output.recovery import recover
from streaming.output.tables import Tables
from streaming.registry.registry import Registry


@dataclass(frozen=True)
class Opened:
    """An output that this process may write to, and its records.

    Attributes:
        settings: of the program.
        places: input, models, output and checkpoint.
        tenure: the right to write.
        log: the manifests.
        epochs: Spark's checkpoints.
        inbox: requests and retries.
    """

    settings: Settings
    places: StreamPlaces
    tenure: Tenure
    log: ManifestLog
    epochs: Epochs
    inbox: Inbox


@contextmanager
def opening(settings: Settings) -> Iterator[Opened]:
    """Hold the lease of the output in this context.

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
        yield Opened(settings, places, tenure, log, epochs, Inbox(log))


def _prepare(places: StreamPlaces, *, keeps_embeddings: bool) -> None:
    """Create what an output needs: tables, manifest log, and the record of its registry; and delete leftovers."""
    places.output.remove_leftovers()
    Tables(places.output, with_embeddings=keeps_embeddings).prepare()
    lineage.record(places.output, Derivative("models", places.models.root))
    manifests.prepare_log(places.output)
