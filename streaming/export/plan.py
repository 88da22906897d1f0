"""Plans an export: which days of the table to write, and which to take over from the latest snapshot.

It compares one listing of the table with one of that snapshot, and needs no Spark.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import NoReturn

import pyarrow as pa

from conf.aws.connection import S3Connection
from conf.errors import OutputError, SettingsError, StorageError, TransientError
from conf.failures import passes
from conf.settings import ExportSettings, Settings
from streaming.export.record import Snapshot, SnapshotDay, read_snapshot
from streaming.export.reprojection import SnapshotModel
from streaming.export.rows import SOURCES
from streaming.export.snapshots import snapshots
from streaming.output.decision import FEATURES_TABLE
from streaming.output.embeddings import EMBEDDINGS_TABLE
from streaming.output.places import open_output
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import is_inside, list_folder, open_folder

_FILE = re.compile(r"date=(\d{4}-\d\d-\d\d)/(?!empty\.parquet|\.)([^/]+)\.parquet")


@dataclass(frozen=True)
class ExportPlaces:
    """The folders of an export, checked."""

    output: Folder
    to: Folder
    connection: S3Connection

    @classmethod
    def of(cls, settings: Settings) -> ExportPlaces:
        """The places in settings that have both output and target.

        Raises:
            SettingsError: the places overlap.
            OutputError: the output is not an output.
        """
        assert settings.export.to is not None
        connection = S3Connection.of(settings.s3)
        output, to = open_output(settings, connection), open_folder(settings.export.to, connection)
        if is_inside(to.root, output.root) or is_inside(output.root, to.root):
            raise SettingsError(f"export.to: {to.root} and the output {output.root} overlap; choose a place outside")
        return cls(output, to, connection)

    def sizes(self, snapshot: str) -> dict[str, int]:
        """The bytes of each file of a snapshot, by its name in it."""
        folder = self.to.path(snapshot)
        found = list_folder(folder, _refuse, self.connection, deep=True)
        return {file.path.removeprefix(f"{folder}/"): file.length for file in found}


@dataclass(frozen=True)
class SourceDay:
    """A day of the table as it was listed.

    Attributes:
        date: of the partition.
        fingerprint: changes with any file's name, length, and time or tag; and with the model of the snapshot.
        latest_manifest: the id of the latest manifest.
        files: `rows.SOURCES`.
    """

    date: date
    fingerprint: str
    latest_manifest: str
    files: pa.Table


@dataclass(frozen=True)
class ExportPlan:
    """The plan of an export.

    Attributes:
        places: the folders.
        base: the snapshot before it, made with the same options; None if there is none.
        write: days that are new or have changed.
        keep: days of `base` that are taken over as they are.
        model: of all rows; None leaves each in its own.
    """

    places: ExportPlaces
    base: Snapshot | None
    write: list[SourceDay]
    keep: list[SnapshotDay]
    model: SnapshotModel | None

    @property
    def sources(self) -> pa.Table:
        """`rows.SOURCES` of the days to write."""
        return pa.concat_tables([SOURCES.empty_table(), *(day.files for day in self.write)])

    @property
    def kept(self) -> list[str]:
        """The names of the files that are taken over, in `base`."""
        return [file.name for day in self.keep for file in day.files]

    @property
    def up_to_date(self) -> Snapshot | None:
        """`base`, if the new snapshot would be the same; else None."""
        return self.base if self.base and not self.write and len(self.keep) == len(self.base.days) else None


def plan_export(places: ExportPlaces, options: ExportSettings, model: SnapshotModel | None) -> ExportPlan:
    """Compare the table with the latest complete snapshot; without a model, each row stays in its own.

    Raises:
        OutputError: the table has no rows yet.
        SettingsError: see `latest_snapshot`.
    """
    base = latest_snapshot(places)
    if base and (base.format, base.target_mb) != (options.format, options.target_mb):
        base = None
    intact = _intact_days(places, base) if base else {}
    plan = ExportPlan(places, base, [], [], model)
    for day in _list_days(places, options.since, model):
        former = intact.get(day.date)
        if former and former.source == day.fingerprint:
            plan.keep.append(former)
        else:
            plan.write.append(day)
    if not plan.write and not plan.keep:
        since = f" since {options.since}" if options.since else ""
        raise OutputError(f"{places.output.path(FEATURES_TABLE)} has no rows{since} yet; nothing was exported")
    return plan


def latest_snapshot(places: ExportPlaces) -> Snapshot | None:
    """The latest complete snapshot.

    Raises:
        SettingsError: the snapshots are of another output.
    """
    complete = [one.id for one in snapshots(places.to) if one.complete]
    if not complete:
        return None
    base = read_snapshot(places.to, complete[-1])
    if base.output != places.output.root:
        raise SettingsError(f"export.to: {places.to.root} holds snapshots of {base.output}; choose another place")
    return base


def _intact_days(places: ExportPlaces, base: Snapshot) -> dict[date, SnapshotDay]:
    """The days of a snapshot whose files were neither deleted nor changed."""
    there = places.sizes(base.snapshot)
    return {day.date: day for day in base.days if all(there.get(file.name) == file.bytes for file in day.files)}


def _list_days(places: ExportPlaces, since: date | None, model: SnapshotModel | None) -> Iterator[SourceDay]:
    """The days of the table in order, from one listing, and one of the embeddings if there is a model."""
    embeddings = _list_table(places, EMBEDDINGS_TABLE) if model else iter(())
    behind = next(embeddings, None)
    for day, files in _list_table(places, FEATURES_TABLE):
        while behind and behind[0] < day:
            behind = next(embeddings, None)
        of_day = behind[1] if behind and behind[0] == day else {}
        if since is None or date.fromisoformat(day) >= since:
            names = {manifest: file for manifest, file in of_day.items() if manifest in files}
            yield _source_day(places.output.root, day, files, names, model)


def _list_table(places: ExportPlaces, table: str) -> Iterator[tuple[str, dict[str, StoredPicture]]]:
    """The days of a table in order, each with its files by their manifests."""
    folder = places.output.path(table)
    files = list_folder(folder, _refuse, places.connection, deep=True)
    named = ((_FILE.fullmatch(file.path.removeprefix(f"{folder}/")), file) for file in files)
    found = ((match[1], match[2], file) for match, file in named if match)
    for day, of_day in groupby(found, key=lambda one: one[0]):
        yield day, {manifest: file for _, manifest, file in of_day}


def _source_day(
    root: str,
    day: str,
    files: Mapping[str, StoredPicture],
    embeddings: Mapping[str, StoredPicture],
    model: SnapshotModel | None,
) -> SourceDay:
    digest = hashlib.sha256()
    for manifest, file in files.items():
        digest.update(_line(manifest, file))
    if model:
        digest.update(f"{model.version}\n".encode())
        for manifest, file in embeddings.items():
            digest.update(_line(manifest, file))
    beside = [embeddings.get(manifest) for manifest in files]
    columns = {
        "date": [day] * len(files),
        "name": [file.path.removeprefix(f"{root}/") for file in files.values()],
        "length": [file.length for file in files.values()],
        "embeddings": [file.path.removeprefix(f"{root}/") if file else None for file in beside],
        "embeddings_length": [file.length if file else 0 for file in beside],
    }
    return SourceDay(date.fromisoformat(day), digest.hexdigest(), max(files), pa.table(columns, schema=SOURCES))


def _line(manifest: str, file: StoredPicture) -> bytes:
    return f"{manifest} {file.length} {file.etag or file.modification_time}\n".encode()


def _refuse(path: str, why: str) -> NoReturn:
    """Of what a listing would leave out: a day that is left out would be missing in the snapshot, and nobody told.

    Raises:
        StorageError, TransientError: always.
    """
    error = sys.exception()  # of the file system, if it failed
    kind = TransientError if isinstance(error, OSError) and passes(error) else StorageError
    raise kind(f"{path} {why}; nothing was exported") from error
