"""Turns an Arrow batch of pictures into an Arrow batch of outcomes: read ahead, decode, infer, project, classify.

Each picture gives exactly one row.
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.aws.connection import S3Connection
from conf.uris import resolve
from streaming.features.backbone import BackboneRunner
from streaming.features.classifier import Classifier
from streaming.features.fetching import Fetcher
from streaming.features.imaging import Limits, Rejected, decode
from streaming.features.projection import Projection
from streaming.features.reading import PictureReader
from streaming.features.reasons import Reason
from streaming.features.schema import OUTCOMES, PICTURES, as_table
from streaming.storage.folder import StoredPicture
from streaming.storage.locations import is_on_s3, look_up

if TYPE_CHECKING:  # workers do not need pydantic, which takes memory in each
    from conf.settings import Settings


@dataclass(frozen=True)
class Recipe:
    """The model and the settings of a featurizer, sent to the workers as one broadcast.

    Attributes:
        backbone: LiteRT flatbuffer; pictures are decoded at the side of its input.
        projection: None for the raw 1280 features.
        classifier: of the projected features; None if the model has none.
        limits: of the decoder.
        timeout: seconds that a picture may take, from its bytes to its features; 0 for any time.
        settle: seconds without a change after which a local file is no longer being written.
        fetch_ahead: how many pictures are read ahead of the present one.
        connection: to S3.
        source: canonical path of the input; None if there is none.
        keeps_embeddings: whether the raw features are kept beside the projected ones.
    """

    backbone: bytes = field(repr=False)
    projection: Projection | None
    classifier: Classifier | None
    limits: Limits
    timeout: float
    settle: float
    fetch_ahead: int
    connection: S3Connection
    source: str | None
    keeps_embeddings: bool

    @classmethod
    def of(
        cls,
        backbone: bytes,
        projection: Projection | None,
        settings: Settings,
        classifier: Classifier | None = None,
    ) -> Recipe:
        """A recipe from the settings, which stay on the driver."""
        imaging = settings.imaging
        limits = Limits(max_bytes=int(imaging.max_bytes), max_pixels=imaging.max_pixels)
        connection, fetch_ahead = S3Connection.of(settings.s3), _FETCH_AHEAD
        source = resolve(settings.input) if settings.input else None
        if source and is_on_s3(source):
            connection, fetch_ahead = connection.resolved(), _FETCH_AHEAD_ON_S3
        return cls(
            backbone=backbone,
            projection=projection,
            classifier=classifier,
            limits=limits,
            timeout=imaging.timeout.total_seconds(),
            settle=settings.stream.settle.total_seconds(),
            fetch_ahead=imaging.fetch_ahead or fetch_ahead,
            connection=connection,
            source=source,
            keeps_embeddings=projection is not None and settings.stream.embeddings == "keep",
        )

    @cached_property
    def content_hash(self) -> str:
        """Hash of all attributes, by which a worker process loads the same recipe only once."""
        digest = hashlib.sha256(self.backbone)
        digest.update(self.projection.to_bytes() if self.projection else b"")
        digest.update(self.classifier.to_bytes() if self.classifier else b"")
        others = (self.limits, self.timeout, self.settle, self.fetch_ahead, self.connection, self.source)
        digest.update(repr((*others, self.keeps_embeddings)).encode())
        return digest.hexdigest()

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.content_hash == other.content_hash


_FETCH_AHEAD = 4
_FETCH_AHEAD_ON_S3 = 16  # 30 ms a request are hidden behind 16 pictures of 5 ms
_OF_CONTENT = (
    Reason.EMPTY,
    Reason.NOT_AN_IMAGE,
    Reason.UNSUPPORTED_FORMAT,
    Reason.CORRUPT,
    Reason.TOO_MANY_BYTES,
    Reason.TOO_MANY_PIXELS,
)
_NOT_READ_WHOLE = (Reason.VANISHED, Reason.DENIED, Reason.ARCHIVED, Reason.UNREADABLE, Reason.TOO_MANY_BYTES)


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
    captured_at: str | None = None
    camera: str | None = None
    embedding: bytes | None = None
    predicted_label: str | None = None
    confidence: float | None = None


class Featurizer:
    """Turns batches of `schema.PICTURES` into batches of `schema.OUTCOMES`, row by row in the same order.

    Not thread-safe. It is for processes that may die: a picture can
    crash its decoder, and one that takes longer than `Recipe.timeout` ends the process by SIGALRM.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._backbone = BackboneRunner(recipe.backbone)
        self._pixels = np.empty((self._backbone.side, self._backbone.side, 3), np.float32)
        self._projection = recipe.projection
        self._classifier = recipe.classifier
        self._keeps_embeddings = recipe.keeps_embeddings
        self._limits = recipe.limits
        self._timeout = recipe.timeout
        self._settle = recipe.settle
        reader = PictureReader(recipe.limits.max_bytes, recipe.connection, recipe.source)
        self._fetch = Fetcher(reader, recipe.limits.max_bytes, recipe.fetch_ahead)

    def __call__(self, pictures: pa.RecordBatch, tick: Callable[[], object] = lambda: None) -> pa.RecordBatch:
        """Featurize a batch; `tick` is called after each picture.

        Raises:
            StorageError, InputError: no picture can be read, for now (TransientError) or permanently.
            MemoryError: there is not enough memory, because of a picture or of another process.
        """
        paths: list[str] = pictures.column("path").to_pylist()
        lengths: list[int] = pictures.column("length").to_pylist()
        outcomes = []
        for content, length in zip(self._fetch(paths, lengths), lengths, strict=True):
            outcomes.append(self._featurize(content, length))
            tick()
        for place, outcome in self._look_again(pictures, outcomes):
            outcomes[place] = outcome
        return _as_batch(pictures, outcomes)

    def of_bytes(self, data: bytes) -> pa.RecordBatch:
        """The outcome of a picture whose bytes are at hand: one row, whose path is empty."""
        picture = as_table([StoredPicture("", len(data), datetime.now(UTC))]).cast(PICTURES).combine_chunks()
        return _as_batch(picture.to_batches()[0], [self._featurize(lambda: data, len(data))])

    def _look_again(self, pictures: pa.RecordBatch, outcomes: list[_Outcome]) -> Iterator[tuple[int, _Outcome]]:
        """New outcomes, by position, of local files that were rejected and have changed since they were listed.

        They may have been read while they were being written, so each is read again once it has not changed for
        `Recipe.settle` seconds. All wait together, and at most `Recipe.timeout` seconds.
        """
        latest = dict(_changed(pictures, outcomes))
        pause = min(self._settle, self._timeout)
        give_up = time.monotonic() + (self._timeout if pause else 0)
        while latest:
            time.sleep(pause)
            for place, before in list(latest.items()):
                path = pictures.column("path")[place].as_py()
                now = latest[place] = look_up(path)
                if now == before:
                    length = now.length if now else 0
                    [content] = self._fetch([path], [length])
                    outcome = self._featurize(content, length)
                    latest[place] = look_up(path)
                    if outcome.reason not in _OF_CONTENT or latest[place] == now:
                        del latest[place]
                        yield place, outcome
                if place in latest and time.monotonic() >= give_up:
                    del latest[place]
                    yield place, _still_written(outcomes[place], self._timeout)

    def _featurize(self, content: Callable[[], bytes], length: int) -> _Outcome:
        data = b""
        try:
            data = content()
            length = len(data)
            with _deadline(self._timeout):
                picture = decode(data, self._limits, self._backbone.side, self._pixels)
                features = self._backbone.run(picture.pixels)
            if not np.isfinite(features).all():
                raise Rejected(Reason.NOT_FINITE, "the backbone gave a NaN or an infinity")
        except Rejected as rejected:
            return _Outcome(
                length=length,
                reason=rejected.reason.value,
                detail=rejected.detail,
                sha256=None if rejected.reason in _NOT_READ_WHOLE else hashlib.sha256(data).hexdigest(),
            )
        projected, error = self._projection.apply(features) if self._projection else (features, None)
        label, confidence = self._classifier.apply(projected) if self._classifier else (None, None)
        return _Outcome(
            length=length,
            width=picture.width,
            height=picture.height,
            features=projected,
            reconstruction_error=error,
            sha256=hashlib.sha256(data).hexdigest(),
            captured_at=picture.exif.captured_at,
            camera=picture.exif.camera,
            embedding=features.tobytes() if self._keeps_embeddings else None,
            predicted_label=label,
            confidence=confidence,
        )


def _changed(pictures: pa.RecordBatch, outcomes: list[_Outcome]) -> Iterator[tuple[int, StoredPicture | None]]:
    """Local files that were rejected for their content and have changed since the listing: position, present state."""
    for place, outcome in enumerate(outcomes):
        path = pictures.column("path")[place].as_py()
        if outcome.reason in _OF_CONTENT and not is_on_s3(path):
            now = look_up(path)
            listed = (pictures.column("length")[place].as_py(), pictures.column("modification_time")[place].as_py())
            if now is None or (now.length, now.modification_time) != listed:
                yield place, now


def _still_written(outcome: _Outcome, seconds: float) -> _Outcome:
    detail = f"it was still being written after {seconds:g}s ({outcome.detail}); retry it when its writer is done"
    return replace(outcome, reason=Reason.BEING_WRITTEN.value, detail=detail)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """End the process by SIGALRM if the body takes longer; the kernel does it, so an endless loop in C ends, too.

    With 0 seconds there is none, and a timer that the process may have of its own is left alone.
    """
    if not seconds:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def rejected(pictures: pa.RecordBatch, reason: Reason, detail: str) -> pa.RecordBatch:
    """The outcomes of pictures that are all rejected for one reason, without their bytes' hash."""
    lengths = pictures.column("length").to_pylist()
    return _as_batch(pictures, [_Outcome(length, reason=reason.value, detail=detail) for length in lengths])


def _as_batch(pictures: pa.RecordBatch, outcomes: list[_Outcome]) -> pa.RecordBatch:
    columns = {name: pictures.column(name) for name in ("path", "modification_time")}
    columns["features"] = _as_lists([outcome.features for outcome in outcomes])
    for name in OUTCOMES.names:
        if name not in columns:
            columns[name] = pa.array([getattr(outcome, name) for outcome in outcomes], OUTCOMES.field(name).type)
    return pa.RecordBatch.from_arrays([columns[name] for name in OUTCOMES.names], schema=OUTCOMES)


def _as_lists(rows: list[NDArray[np.float32] | None]) -> pa.ListArray:
    """list<float32> from arrays, without a Python object per number."""
    offsets = np.cumsum([0, *(0 if row is None else len(row) for row in rows)], dtype=np.int32)
    values = np.concatenate([np.empty(0, np.float32), *(row for row in rows if row is not None)])
    missing = pa.array([row is None for row in rows], pa.bool_())
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values), type=OUTCOMES.field("features").type, mask=missing
    )
