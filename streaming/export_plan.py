"""What an export has to do: which days of the table to write, and which to take over from the snapshot before.

It owns the comparison of the table with the latest snapshot; it must not know how anything is written. It needs no
Spark: one listing of the table and one of that snapshot say all.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import OutputError, SettingsError
from conf.s3 import S3Connection
from conf.settings import ExportSettings, Settings
from streaming.compaction import SOURCES
from streaming.features.storage import is_inside, list_folder, open_folder
from streaming.features.stored import Folder, StoredPicture
from streaming.places import open_output
from streaming.sink import FEATURES_TABLE
from streaming.snapshot_record import Snapshot, SnapshotDay
from streaming.snapshots import read_snapshot, snapshots

_SOURCE = re.compile(rf"{FEATURES_TABLE}/date=(\d{{4}}-\d\d-\d\d)/(?!empty\.parquet)([^/]+)\.parquet")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """Where everything is, checked."""

    output: Folder
    to: Folder
    connection: S3Connection

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """From settings whose output and target are there.

        Raises:
            SettingsError: the places overlap.
            OutputError: the output is none.
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
        found = list_folder(folder, _warn, self.connection, deep=True)
        return {file.path.removeprefix(f"{folder}/"): file.length for file in found}


@dataclass(frozen=True)
class SourceDay:
    """A day of the table as it was listed.

    Attributes:
        date: of the partition.
        fingerprint: changes with any file's name, length, and time or tag.
        latest_manifest: by its id.
        files: `compaction.SOURCES`.
    """

    date: date
    fingerprint: str
    latest_manifest: str
    files: pa.Table


@dataclass(frozen=True)
class Plan:
    """What an export has to do.

    Attributes:
        places: where.
        base: the snapshot before it, made with the same options; None if there is none.
        write: days that are new or have changed.
        keep: days of `base` that are taken over as they are.
    """

    places: Places
    base: Snapshot | None
    write: list[SourceDay]
    keep: list[SnapshotDay]

    @property
    def sources(self) -> pa.Table:
        """`compaction.SOURCES` of the days to write."""
        return pa.concat_tables([SOURCES.empty_table(), *(day.files for day in self.write)])

    @property
    def kept(self) -> list[str]:
        """The names of the files that are taken over, in `base`."""
        return [file.name for day in self.keep for file in day.files]

    @property
    def up_to_date(self) -> Snapshot | None:
        """`base`, if it is what the snapshot would be."""
        return self.base if self.base and not self.write and len(self.keep) == len(self.base.days) else None

    def as_text(self) -> str:
        """What is to be done, for people."""
        if self.up_to_date:
            return nothing_new(self.places, self.up_to_date)
        files = self.sources
        size = pc.sum(files.column("length")).as_py() or 0
        kept = len(self.kept)
        of = f" of {self.base.snapshot}" if self.base and kept else ""
        return "\n".join(
            (
                f"would write  {_days(len(self.write))}: {len(files):,} files of the table, {size:,} bytes",
                f"would keep   {_days(len(self.keep))}: {kept:,} files{of}",
                f"into         a new folder in {self.places.to.root}",
            )
        )


def nothing_new(places: Places, snapshot: Snapshot) -> str:
    """Why no snapshot is made."""
    return (
        f"nothing new: {places.to.path(snapshot.snapshot)} holds all {snapshot.rows:,} rows of "
        f"{places.output.path(FEATURES_TABLE)}{f' since {snapshot.since}' if snapshot.since else ''} already"
    )


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count:,} days"


def make_plan(places: Places, options: ExportSettings) -> Plan:
    """Compare the table with the latest complete snapshot.

    Raises:
        OutputError: the table has no rows yet.
        SettingsError: the snapshots are of another output.
    """
    base = _base(places, options)
    intact = _intact_days(places, base) if base else {}
    plan = Plan(places, base, [], [])
    for day in _list_table(places, options.since):
        former = intact.get(day.date)
        if former and former.source == day.fingerprint:
            plan.keep.append(former)
        else:
            plan.write.append(day)
    if not plan.write and not plan.keep:
        since = f" since {options.since}" if options.since else ""
        raise OutputError(f"{places.output.path(FEATURES_TABLE)} has no rows{since} yet; nothing was exported")
    return plan


def _base(places: Places, options: ExportSettings) -> Snapshot | None:
    """The latest complete snapshot; None if it was made with other options."""
    complete = [one.id for one in snapshots(places.to) if one.complete]
    if not complete:
        return None
    base = read_snapshot(places.to, complete[-1])
    if base.output != places.output.root:
        raise SettingsError(f"export.to: {places.to.root} holds snapshots of {base.output}; choose another place")
    return base if (base.format, base.target_mb) == (options.format, options.target_mb) else None


def _intact_days(places: Places, base: Snapshot) -> dict[date, SnapshotDay]:
    """The days of a snapshot of which no file was deleted or changed."""
    there = places.sizes(base.snapshot)
    return {day.date: day for day in base.days if all(there.get(file.name) == file.bytes for file in day.files)}


def _list_table(places: Places, since: date | None) -> Iterator[SourceDay]:
    """The days of the table in order, from one listing."""
    root = places.output.root
    files = list_folder(places.output.path(FEATURES_TABLE), _warn, places.connection, deep=True)
    named = ((_SOURCE.fullmatch(file.path.removeprefix(f"{root}/")), file) for file in files)
    found = ((match[1], match[2], file) for match, file in named if match)
    for day, of_day in groupby(found, key=lambda one: one[0]):
        if since is None or date.fromisoformat(day) >= since:
            yield _source_day(day, root, [(manifest, file) for _, manifest, file in of_day])


def _source_day(day: str, root: str, files: list[tuple[str, StoredPicture]]) -> SourceDay:
    digest = hashlib.sha256()
    for manifest, file in files:
        digest.update(f"{manifest} {file.length} {file.etag or file.modification_time}\n".encode())
    columns = {
        "date": [day] * len(files),
        "name": [file.path.removeprefix(f"{root}/") for _, file in files],
        "length": [file.length for _, file in files],
    }
    latest_manifest = max(manifest for manifest, _ in files)
    return SourceDay(date.fromisoformat(day), digest.hexdigest(), latest_manifest, pa.table(columns, schema=SOURCES))


def _warn(path: str, why: str) -> None:
    _logger.warning("left out: %r %s", path, why)
