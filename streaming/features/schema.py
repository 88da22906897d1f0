"""The Arrow schemas of pictures, outcomes and tables."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from streaming.storage.folder import StoredPicture

TIMESTAMP = pa.timestamp("us", tz="UTC")

FEATURE_COUNT = 1280
"""Length of the backbone's output: MobileNetV2 (width 1.0) without top, average-pooled."""


PICTURES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("modification_time", TIMESTAMP, nullable=False),
        pa.field("etag", pa.string()),
    ]
)
"""A picture as discovery lists it: raw key or absolute local path, bytes, store's time, store's tag (S3 only)."""


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
        pa.field("captured_at", pa.string()),
        pa.field("camera", pa.string()),
        pa.field("embedding", pa.binary()),
        pa.field("predicted_label", pa.string()),
        pa.field("confidence", pa.float32()),
    ]
)
"""The outcomes of `PICTURES`, row by row: features, or a reason why there are none.

`length` is the number of bytes that were read (as stated by the store, where nothing was read). `features` has the k
projected values, or the 1280 raw ones where the featurizer has no projection; `reconstruction_error` is null then.
`embedding` has the 1280 raw values, as the bytes of their float32, where the recipe keeps them: Spark and Arrow copy
bytes as a whole, but lists number by number. `sha256` is null if the bytes were never read, or died
with the process that read them. `captured_at` and `camera`: see `exif.Exif`.
`predicted_label` and `confidence`, from 0 to 1, are null where the recipe has no classifier.
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
        pa.field("predicted_label", pa.string()),
        pa.field("confidence", pa.float32()),
        pa.field("sha256", pa.string()),
        pa.field("captured_at", pa.string()),
        pa.field("camera", pa.string()),
    ]
)
"""The table `OUTPUT/features`. width and height are as displayed, that is after EXIF rotation.

The columns that may be null came with format 2: files of format 1 do not have them.
"""

EMBEDDINGS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("embedding", _list_of_float32(), nullable=False),
        pa.field("backbone", pa.string(), nullable=False),
        pa.field("processed_at", TIMESTAMP, nullable=False),
    ]
)
"""The table `OUTPUT/embeddings`: the 1280 raw values of each row of `FEATURES`, and their `backbone.backbone_id`."""

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


def with_all_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of a file of this or an earlier format, in a schema: columns that the file does not have are null.

    Raises:
        KeyError, pyarrow.ArrowInvalid: a column that may not be null is missing, or of another type.
    """
    for field in schema:
        if field.nullable and field.name not in table.schema.names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(schema.names).cast(schema)


def label_of(path: str) -> str:
    """The label of a picture: the name of its parent folder, as in the path; empty if it has none."""
    return path.rpartition("/")[0].rpartition("/")[2]
