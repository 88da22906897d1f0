"""The Arrow schemas that cross a seam, and the stable reason codes of quarantine.

It owns names, types and their order; it must not know how a row comes to be or where it goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import pyarrow as pa

from streaming.features.stored import StoredPicture

TIMESTAMP = pa.timestamp("us", tz="UTC")

FEATURE_COUNT = 1280
"""Length of the backbone's output: MobileNetV2 (width 1.0) without top, average-pooled."""


class Reason(StrEnum):
    """Why a picture is in quarantine. The codes are part of the table's contract and never change their meaning."""

    EMPTY = "empty"
    """The file has no bytes."""
    NOT_AN_IMAGE = "not_an_image"
    """The content is none of the accepted formats."""
    UNSUPPORTED_FORMAT = "unsupported_format"
    """The content is an image, in a format that is not accepted."""
    CORRUPT = "corrupt"
    """An accepted format that does not decode whole: damaged or truncated."""
    TOO_MANY_BYTES = "too_many_bytes"
    """Larger than imaging.max_bytes; it was not read."""
    TOO_MANY_PIXELS = "too_many_pixels"
    """More pixels than imaging.max_pixels; it was not decoded."""
    VANISHED = "vanished"
    """It was seen, and was gone when it was to be read."""
    DENIED = "denied"
    """It is there, and this user may not read it."""
    ARCHIVED = "archived"
    """It is in an archive (Glacier) and has to be restored first."""
    NOT_FINITE = "not_finite"
    """The backbone gave a NaN or an infinity."""


PICTURES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("modification_time", TIMESTAMP, nullable=False),
        pa.field("etag", pa.string()),
    ]
)
"""What discovery knows of a picture: raw key or absolute local path, bytes, store's time, store's tag (S3 only)."""


def as_table(pictures: Iterable[StoredPicture]) -> pa.Table:
    """Pictures as `PICTURES`."""
    listed = list(pictures)
    return pa.table({name: [getattr(one, name) for one in listed] for name in PICTURES.names}, schema=PICTURES)


def _list_of_float32() -> pa.ListType:
    return pa.list_(pa.field("element", pa.float32(), nullable=False))


OUTCOMES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("modification_time", TIMESTAMP, nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("features", _list_of_float32()),
        pa.field("reconstruction_error", pa.float32()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("sha256", pa.string()),
    ]
)
"""What the featurizer makes of `PICTURES`, row by row: features, or a reason why there are none.

`length` is the number of bytes that were read (that the store stated, where nothing was read). `features` has the k
projected values, or the 1280 raw ones where the featurizer has no projection; `reconstruction_error` is null then.
`sha256` is null if the bytes were never read.
"""

FEATURES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("modification_time", TIMESTAMP, nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("features", _list_of_float32(), nullable=False),
        pa.field("reconstruction_error", pa.float32(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("processed_at", TIMESTAMP, nullable=False),
    ]
)
"""The table `OUTPUT/features`. width and height are as displayed, that is after EXIF rotation."""

QUARANTINE = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("modification_time", TIMESTAMP, nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("processed_at", TIMESTAMP, nullable=False),
    ]
)
"""The table `OUTPUT/quarantine`."""


def label_of(path: str) -> str:
    """The label of a picture: the name of its parent folder, as it stands in the path; empty where there is none."""
    return path.rpartition("/")[0].rpartition("/")[2]
