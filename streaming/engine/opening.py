"""Opens an output for a stream: checks everything that can be checked without Spark, and takes the lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from conf.errors import LeaseLostError, SettingsError, TransientError
from conf.settings import Settings
from conf.temporary import temporary_folder
from conf.uris import resolve
from streaming.engine.checkpoint import Epochs
from streaming.lease.holder import read_holder
from streaming.lease.tenure import Tenure
from streaming.output import lineage, manifests
from streaming.output.format_number import begin_format, check_format
from streaming.output.inbox import Inbox
from streaming.output.known import check_log
from streaming.output.lineage import Derivative
from streaming.output.manifest_log import ManifestLog
from streaming.output.places import StreamPlaces
from streaming.output.recovery import recover
from streaming.output.tables import Tables
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import is_on_s3


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


@dataclass(frozen=True)
class Held:
    """An output whose lease this process holds.

    Attributes:
        settings: of the program.
        places: input, models, output and checkpoint.
        tenure: the right to write.
        is_new: whether nobody has written there before, as far as a start can tell.
    """

    settings: Settings
    places: StreamPlaces
    tenure: Tenure
    is_new: bool


@contextmanager
def holding(settings: Settings) -> Iterator[Held]:
    """Hold the lease of the output in this context.

    Raises:
        AppError: a check failed, so that Spark need not be started.
    """
    with _checkpoint(settings) as checkpoint:
        places = StreamPlaces.of(settings, checkpoint)
        _do_at_once(
            lambda: check_format(places.output),
            Registry(places.models).current,
            lambda: next(places.input.pictures(lambda path, why: None), None),  # whether it can be listed
        )
        with again_if_free(places.output), Tenure(places.output, settings.stream.lease) as tenure:
            # A start that the lease refuses raises no number: the stream of an earlier version may go on.
            yield Held(settings, places, tenure, is_new=begin_format(places.output))


@contextmanager
def again_if_free(output: Folder) -> Iterator[None]:
    """Have a stream start again that lost the lease to a program which failed, or to `forget`, and has ended since.

    Raises:
        TransientError: in place of such a LeaseLostError.
    """
    try:
        yield
    except LeaseLostError as error:
        holder, _ = read_holder(output)
        if holder is None or not holder.released or holder.failure is None:  # one that was stopped as asked stays so
            raise
        raise TransientError(f"{output.root}: the lease was lost, and is free again: {holder.failure}") from error


@contextmanager
def _checkpoint(settings: Settings) -> Iterator[str]:
    """Where Spark's checkpoint is: as asked for, beside an output on a local disk, or in a temporary folder.

    Raises:
        SettingsError: it was asked for on S3.
        StorageError: no temporary folder can be made.
    """
    assert settings.output is not None
    output = resolve(settings.output)
    if settings.checkpoint:
        if is_on_s3(checkpoint := resolve(settings.checkpoint)):
            raise SettingsError(
                f"checkpoint: {checkpoint} is on S3, where Spark would wait for thirty requests in each micro-batch; "
                "leave it out, or give a folder of this machine: it is worth nothing by itself"
            )
        yield checkpoint
    elif is_on_s3(output):
        with temporary_folder("picture-features-") as folder:
            yield folder
    else:
        yield f"{output}/_checkpoint"


def open_held(held: Held) -> Opened:
    """Prepare an output for writing, and recover what former holders have left; on S3, some twenty requests.

    Raises:
        AppError: a check failed.
    """
    settings, places, tenure = held.settings, held.places, held.tenure
    epochs = Epochs(tenure, places.checkpoint)
    places.output.remove_leftovers()
    _do_at_once(
        Tables(places.output, with_embeddings=settings.stream.embeddings == "keep").prepare,
        lambda: lineage.record(places.output, Derivative("models", places.models.root)),
        lambda: manifests.prepare_log(places.output),
        epochs.open,
        lambda: check_log(places.output),
    )
    log = ManifestLog(tenure, recover(tenure))
    return Opened(settings, places, tenure, log, epochs, Inbox(log))


def _do_at_once(*steps: Callable[[], object]) -> None:
    """Do steps that do not depend on each other, each of which is some requests of 30 ms on S3; raises what one raises.

    The first of those that fail counts, when all have ended.
    """
    with ThreadPoolExecutor(len(steps)) as threads:
        done = [threads.submit(step) for step in steps]
    for one in done:
        one.result()
