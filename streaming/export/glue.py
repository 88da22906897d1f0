"""Points a table of the Glue catalog at the snapshot that LATEST names, so that Athena reads the newest one.

Several exports may do so at once, and none may point the table back to an earlier snapshot. So LATEST is read before
each change and again after it, and a change is made only if the table is still of the version that was read.
"""

from __future__ import annotations

import csv
import gzip
import io
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import pyarrow as pa

from conf.aws.connection import S3Connection
from conf.aws.errors import Explainer
from conf.backoff import pauses
from conf.errors import OutputError, SettingsError, TransientError
from conf.settings import ExportSettings
from streaming.export.formats import ROWS
from streaming.export.record import Snapshot, latest, read_snapshot
from streaming.features.schema import FEATURES
from streaming.storage.folder import Folder
from streaming.storage.locations import is_inside, is_on_s3

_ATTEMPTS = 8
_TYPES = {
    pa.string(): "string",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
    FEATURES.field("features").type: "array<float>",
    FEATURES.field("processed_at").type: "timestamp",
}
_PARTITIONS = [{"Name": "date", "Type": "string"}]
_HIVE = "org.apache.hadoop.hive.ql.io"
_DESCRIPTION = "The newest snapshot of an export of picture-features; each export exchanges this definition."


def check_table(options: ExportSettings, to: Folder) -> None:
    """Refuse a table of a folder that Athena does not reach.

    Raises:
        SettingsError: a table is asked for, and the snapshots are not on S3.
    """
    if options.glue_table and not is_on_s3(to.root):
        raise SettingsError(f"export.glue_table: a table shows a folder on S3, and --to is {to.root}")


def check_shown(to: Folder, snapshot: Snapshot) -> None:
    """Refuse a snapshot that cannot be one table.

    Raises:
        OutputError: it is of CSV, and has several models, whose columns differ, or no rows.
    """
    if snapshot.format == "csv" and len(models := _models(snapshot)) != 1:
        raise OutputError(
            f"export.glue_table: {to.path(snapshot.snapshot)} has rows of {len(models)} models, and a table of CSV has "
            "the columns of one; export as parquet, or with --model current"
        )


def _models(snapshot: Snapshot) -> set[str]:
    """The models of a snapshot of CSV, which has a folder for each."""
    return {file.name.partition("/")[0] for file in snapshot.files}


def point_table(name: str, to: Folder, connection: S3Connection) -> None:
    """Make the table DATABASE.TABLE show the snapshot that LATEST names. Idempotent; its database must exist.

    The region and the credentials of the connection are those of the catalog.

    Raises:
        OutputError: the table shows something else than snapshots of `to`, or the snapshot cannot be one table.
        StorageError: Glue refused.
        TransientError: Glue fails now, or other programs keep changing the table.
    """
    table = _Table(name, connection)
    described: Snapshot | None = None
    for rest in islice(pauses(0.2), _ATTEMPTS):
        present, newest = table.read(), _newest(to)
        if described is None or described.snapshot != newest:
            described = read_snapshot(to, newest)
        wanted = _definition(table.name, to, described)
        if present is None:
            done = table.create(wanted)
        else:
            _check_ours(name, present, to)
            done = _has(present, wanted) or table.update(wanted, present.get("VersionId"))
        if done and _newest(to) == newest:
            return
        if not done:
            time.sleep(rest)
    raise TransientError(f"Glue table {name}: other programs keep changing it; export again")


def _newest(to: Folder) -> str:
    present = latest(to)
    assert present is not None  # this export, or one before it, has written it
    return present.snapshot


class _Table:
    """A table of the catalog."""

    def __init__(self, name: str, connection: S3Connection) -> None:
        self._database, _, self.name = name.partition(".")
        self._what = f"Glue table {name}"
        self._explained = Explainer(
            "Glue",
            {
                "EntityNotFoundException": f"there is no database {self._database!r} in the catalog; create it, or "
                "name another in export.glue_table"
            },
        ).explained
        with self._explained(self._what, "glue:GetTable"):
            self._glue: Any = connection.client("glue")

    def read(self) -> Mapping[str, Any] | None:
        """Its definition; None if it does not exist, or its database does not."""
        with self._explained(self._what, "glue:GetTable"):
            try:
                found: Mapping[str, Any] = self._glue.get_table(DatabaseName=self._database, Name=self.name)["Table"]
            except self._glue.exceptions.EntityNotFoundException:
                return None
        return found

    def create(self, wanted: Mapping[str, Any]) -> bool:
        """Create it; False if another program has just done so."""
        with self._explained(self._what, "glue:CreateTable"):
            try:
                self._glue.create_table(DatabaseName=self._database, TableInput=wanted)
            except (
                self._glue.exceptions.AlreadyExistsException,
                self._glue.exceptions.ConcurrentModificationException,
            ):
                return False
        return True

    def update(self, wanted: Mapping[str, Any], version: str | None) -> bool:
        """Exchange its definition; False if it is not of this version any more."""
        same = {"VersionId": version} if version else {}
        with self._explained(self._what, "glue:UpdateTable"):
            try:
                # Glue would keep each former version, up to a limit, and count them all.
                self._glue.update_table(DatabaseName=self._database, TableInput=wanted, SkipArchive=True, **same)
            except self._glue.exceptions.ConcurrentModificationException:
                return False
        return True


def _check_ours(name: str, present: Mapping[str, Any], to: Folder) -> None:
    shown = str(present.get("StorageDescriptor", {}).get("Location", "")).rstrip("/").replace("s3a://", "s3://")
    if not is_inside(shown, to.root):
        raise OutputError(
            f"export.glue_table: {name} shows {shown or 'nothing on S3'}, and no snapshot in {to.root}; name another "
            "table, or drop this one if nobody needs it"
        )


def _has(present: Any, wanted: Any) -> bool:
    """Whether a definition of Glue has all that is wanted; it has more, such as times."""
    if isinstance(wanted, dict):
        return isinstance(present, dict) and all(_has(present.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(present, list) and len(present) == len(wanted) and all(map(_has, present, wanted))
    return bool(present == wanted)


def _definition(table: str, to: Folder, snapshot: Snapshot) -> dict[str, Any]:
    """The definition of a table that shows a snapshot, as Glue takes it."""
    of_format = _parquet(to, snapshot) if snapshot.format == "parquet" else _csv(to, snapshot)
    ours = {"snapshot": snapshot.snapshot, "model": snapshot.model or "as-ingested", "output": snapshot.output}
    parameters = {
        "EXTERNAL": "TRUE",
        "classification": snapshot.format,
        **{f"picture-features.{key}": value for key, value in ours.items()},
        **of_format.pop("Parameters"),
    }
    return {
        "Name": table,
        "Description": _DESCRIPTION,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": parameters,
        **of_format,
    }


def _parquet(to: Folder, snapshot: Snapshot) -> dict[str, Any]:
    """The parts of a snapshot of Parquet: Athena works out its folders, one for each day, by itself."""
    folder, days = to.path(snapshot.snapshot), [day.date for day in snapshot.days]
    return {
        "Parameters": {
            "projection.enabled": "true",
            "projection.date.type": "date",
            "projection.date.format": "yyyy-MM-dd",
            "projection.date.range": f"{min(days)},{max(days)}",
            "storage.location.template": f"{folder}/date=${{date}}/",
        },
        "PartitionKeys": _PARTITIONS,
        "StorageDescriptor": {
            "Location": f"{folder}/",
            "Columns": columns(FEATURES),
            "InputFormat": f"{_HIVE}.parquet.MapredParquetInputFormat",
            "OutputFormat": f"{_HIVE}.parquet.MapredParquetOutputFormat",
            "SerdeInfo": {"SerializationLibrary": f"{_HIVE}.parquet.serde.ParquetHiveSerDe"},
        },
    }


def columns(schema: pa.Schema) -> list[dict[str, str]]:
    """The columns of Parquet files as Glue names them and their types."""
    return [{"Name": field.name, "Type": _TYPES[field.type]} for field in schema]


def _csv(to: Folder, snapshot: Snapshot) -> dict[str, Any]:
    """The parts of a snapshot of CSV: the folder of its one model; raises as `check_shown`."""
    check_shown(to, snapshot)
    [model] = _models(snapshot)
    first = to.read(f"{snapshot.snapshot}/{snapshot.files[0].name}")
    with gzip.open(io.BytesIO(first), "rt", encoding="utf-8", newline="") as lines:
        names = next(csv.reader(lines))
    return {
        "Parameters": {"skip.header.line.count": "1"},
        "PartitionKeys": [],
        "StorageDescriptor": {
            "Location": f"{to.path(snapshot.snapshot)}/{model}/",
            "Columns": [{"Name": name, "Type": _csv_type(name)} for name in names],
            "InputFormat": "org.apache.hadoop.mapred.TextInputFormat",
            "OutputFormat": f"{_HIVE}.HiveIgnoreKeyTextOutputFormat",
            "SerdeInfo": {
                "SerializationLibrary": "org.apache.hadoop.hive.serde2.OpenCSVSerde",
                "Parameters": {"separatorChar": ",", "quoteChar": '"'},
            },
        },
    }


def _csv_type(name: str) -> str:
    """The type by which Athena's reader of quoted CSV takes a column.

    It knows neither floats of 32 bits nor these times, and no empty numbers:
    https://docs.aws.amazon.com/athena/latest/ug/csv-serde.html
    """
    if name not in ROWS.names:
        return "double"  # a feature
    field = ROWS.field(name)
    if field.nullable or pa.types.is_timestamp(field.type):
        return "string"
    return {"float": "double"}.get(_TYPES[field.type], _TYPES[field.type])
