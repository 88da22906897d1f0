"""Arrow batch of pictures in, Arrow batch of outcomes out: fetch ahead, decode, infer, project.

It owns the order of these steps and the rule that each picture gives exactly one row; it must not know of Spark.
"""

from __future__ import annotations

import hashlib
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.errors import ArchivedError, NotFoundError, RefusedError
from conf.s3 import S3Connection
from streaming.features.backbone import BackboneRunner
from streaming.features.imaging import Limits, Rejected, decode
from streaming.features.projection import Projection
from streaming.features.schema import OUTCOMES, Reason
from streaming.features.storage import is_on_s3, read_picture, resolve

if TYPE_CHECKING:  # workers have no need of pydantic, which takes memory in each
    from conf.settings import Settings


@dataclass(frozen=True)
class Recipe:
    """All that a featurizer is made from. It travels to the workers as one broadcast.

    Attributes:
        backbone: LiteRT flatbuffer.
        projection: None for the raw 1280 features.
        limits: of the decoder.
        timeout: seconds that a picture may take, from its bytes to its features.
        fetch_ahead: how many pictures are read ahead of the one in work.
        connection: to S3.
    """

    backbone: bytes = field(repr=False)
    projection: Projection | None
    limits: Limits
    timeout: float
    fetch_ahead: int
    connection: S3Connection

    @classmethod
    def of(cls, backbone: bytes, projection: Projection | None, settings: Settings) -> Recipe:
        """From the settings, which stay on the driver."""
        imaging = settings.imaging
        limits = Limits(max_bytes=int(imaging.max_bytes), max_pixels=imaging.max_pixels)
        connection, fetch_ahead = S3Connection.of(settings.s3), _FETCH_AHEAD
        if settings.input and is_on_s3(resolve(settings.input)):
            connection, fetch_ahead = connection.resolved(), _FETCH_AHEAD_ON_S3
        timeout = imaging.timeout.total_seconds()
        return cls(backbone, projection, limits, timeout, imaging.fetch_ahead or fetch_ahead, connection)

    @cached_property
    def content_hash(self) -> str:
        """Hash of everything above; the same recipe is loaded once per worker process."""
        digest = hashlib.sha256(self.backbone)
        digest.update(self.projection.to_bytes() if self.projection else b"")
        digest.update(repr((self.limits, self.timeout, self.fetch_ahead, self.connection)).encode())
        return digest.hexdigest()

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.content_hash == other.content_hash


_FETCH_AHEAD = 4
_FETCH_AHEAD_ON_S3 = 16  # 30 ms a request are hidden behind 16 pictures of 5 ms
_MAX_BYTES_AHEAD = 64 * 2**20
_NEVER_READ = (Reason.VANISHED, Reason.DENIED, Reason.ARCHIVED)


@dataclass(frozen=True, slots=True)
class _Outcome:
    length: int
    width: int | None = None
    height: int | None = None
    features: NDArray[np.float32] | None = None
    reconstruction_error: float | None = None
    reason: str | None = None
    detail: str | None = None
    sha256: str | None = None


class Featurizer:
    """Turns batches of `schema.PICTURES` into batches of `schema.OUTCOMES`, row by row in the same order.

    Not thread-safe. It is for processes that may die: a picture can
    crash its decoder, and one that takes longer than `Recipe.timeout` ends the process by SIGALRM.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._backbone = BackboneRunner(recipe.backbone)
        self._projection = recipe.projection
        self._limits = recipe.limits
        self._timeout = recipe.timeout
        self._fetch_ahead = recipe.fetch_ahead
        self._connection = recipe.connection
        self._readers = ThreadPoolExecutor(recipe.fetch_ahead, thread_name_prefix="fetch")

    def __call__(self, pictures: pa.RecordBatch) -> pa.RecordBatch:
        """Featurize a batch.

        Raises:
            OSError: the store failed in a way that may pass; the batch is to be tried again.
            MemoryError: there is not enough; that may be a picture's doing, or a neighbour's.
        """
        paths: list[str] = pictures.column("path").to_pylist()
        lengths: list[int] = pictures.column("length").to_pylist()
        outcomes = [
            self._featurize(content, length)
            for content, length in zip(self._contents(paths, lengths), lengths, strict=True)
        ]
        return _as_batch(pictures, outcomes)

    def _contents(self, paths: list[str], lengths: list[int]) -> Iterator[Future[bytes] | None]:
        """Each picture's bytes in turn, with a bounded number of reads under way; None for one not worth reading."""
        limit = self._limits.max_bytes
        waiting = deque(zip(paths, lengths, strict=True))
        under_way: deque[tuple[Future[bytes] | None, int]] = deque()
        ahead = 0
        while waiting or under_way:
            while waiting and len(under_way) < self._fetch_ahead:
                path, length = waiting[0]
                to_read = length if length <= limit else 0
                if under_way and ahead + to_read > _MAX_BYTES_AHEAD:
                    break
                waiting.popleft()
                ahead += to_read
                read = self._readers.submit(read_picture, path, limit, self._connection) if length <= limit else None
                under_way.append((read, to_read))
            content, taken = under_way.popleft()
            ahead -= taken
            yield content

    def _featurize(self, content: Future[bytes] | None, length: int) -> _Outcome:
        data = b""
        try:
            if content is None:
                raise Rejected(
                    Reason.TOO_MANY_BYTES, f"{length} bytes; imaging.max_bytes allows {self._limits.max_bytes}"
                )
            data = _read(content)
            length = len(data)
            with _deadline(self._timeout):
                picture = decode(data, self._limits)
                features = self._backbone.run(picture.pixels)
            if not np.isfinite(features).all():
                raise Rejected(Reason.NOT_FINITE, "the backbone gave a NaN or an infinity")
        except Rejected as rejected:
            known = content is not None and rejected.reason not in _NEVER_READ
            return _Outcome(
                length=length,
                reason=rejected.reason.value,
                detail=rejected.detail,
                sha256=hashlib.sha256(data).hexdigest() if known else None,
            )
        error = None
        if self._projection:
            features, error = self._projection.apply(features)
        return _Outcome(length, picture.width, picture.height, features, error)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Ends the process if the body takes longer: by the kernel, so that an endless loop in C ends, too."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _read(content: Future[bytes]) -> bytes:
    try:
        return content.result()
    except NotFoundError:
        raise Rejected(
            Reason.VANISHED, "it was seen when the input was listed, and was gone when it was to be read"
        ) from None
    except RefusedError:
        raise Rejected(Reason.DENIED, "reading it is not allowed; retry it when access was granted") from None
    except ArchivedError:
        raise Rejected(Reason.ARCHIVED, "it is archived; retry it when it was restored") from None


def rejected(pictures: pa.RecordBatch, reason: Reason, detail: str) -> pa.RecordBatch:
    """The outcomes of pictures that are all rejected for one reason, without having been read."""
    lengths = pictures.column("length").to_pylist()
    return _as_batch(pictures, [_Outcome(length, reason=reason.value, detail=detail) for length in lengths])


def _as_batch(pictures: pa.RecordBatch, outcomes: list[_Outcome]) -> pa.RecordBatch:
    columns = {name: pictures.column(name) for name in ("path", "modification_time")}
    for name in ("length", "width", "height", "reconstruction_error", "reason", "detail", "sha256"):
        columns[name] = pa.array([getattr(outcome, name) for outcome in outcomes], OUTCOMES.field(name).type)
    columns["features"] = _as_lists([outcome.features for outcome in outcomes])
    return pa.RecordBatch.from_arrays([columns[name] for name in OUTCOMES.names], schema=OUTCOMES)


def _as_lists(rows: list[NDArray[np.float32] | None]) -> pa.ListArray:
    """list<float32> from arrays, without a Python object per number."""
    offsets = np.cumsum([0, *(0 if row is None else len(row) for row in rows)], dtype=np.int32)
    values = np.concatenate([np.empty(0, np.float32), *(row for row in rows if row is not None)])
    missing = pa.array([row is None for row in rows], pa.bool_())
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values), type=OUTCOMES.field("features").type, mask=missing
    )
