"""Duplicates: the pictures of a table with the same bytes, and those of the same scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.answers import Answer, Row
from conf.aws.connection import S3Connection
from conf.plural import plural
from conf.settings import Settings
from streaming.lease.denylist import Denylist
from streaming.search.choices import WITHIN
from streaming.search.groups import Groups, Places
from streaming.search.scan import matrix, scan
from streaming.search.scenes import Clock, join_bursts, join_near
from streaming.search.table import SearchTable, choose_model, explain_models, no_rows_of, open_table
from streaming.search.vectors import Vectors

_DESCRIBED = ("path", "sha256", "length", "width", "height", "modification_time", "captured_at", "camera")
_SHOWN = 20


class Kind(StrEnum):
    """What the pictures of a group have in common."""

    SAME_BYTES = "same-bytes"
    SAME_SCENE = "same-scene"


class Why(StrEnum):
    """The first respect in which the picture to keep is ahead of all others of its group."""

    MOST_PIXELS = "most-pixels"
    MOST_BYTES = "most-bytes"
    OLDEST = "oldest"
    FIRST_BY_PATH = "first-by-path"

    @property
    def explained(self) -> str:
        """For people."""
        return {
            Why.MOST_PIXELS: "most pixels",
            Why.MOST_BYTES: "as many pixels, and most bytes",
            Why.OLDEST: "as many pixels and bytes, and oldest",
            Why.FIRST_BY_PATH: "all are alike; first by path",
        }[self]


@dataclass(frozen=True)
class DuplicatesRequest:
    """The question.

    Attributes:
        table: URI of an output, a folder of exports or a snapshot; None for that of the settings.
        within: the greatest cosine distance of two pictures of one scene.
        burst: the longest time between two pictures of one scene, which are of one camera then; None for any.
        model: by whose features scenes are compared; None for that of the latest rows.
    """

    table: str | None = None
    within: float = WITHIN
    burst: timedelta | None = None
    model: str | None = None


@dataclass(frozen=True)
class Duplicate:
    """A picture of a group.

    Attributes:
        path, sha256, length, width, height, modification_time, captured_at, camera: as in the table.
        distance: from the picture to keep; None if its row is of another model.
    """

    path: str
    sha256: str | None
    length: int
    width: int
    height: int
    modification_time: datetime
    captured_at: str | None
    camera: str | None
    distance: float | None


@dataclass(frozen=True)
class Group:
    """Pictures of which one is enough.

    Attributes:
        kind: what they have in common.
        why: the first picture is the one to keep.
        pictures: the one to keep, then the others by distance. A scene is a chain of near pairs, so the last may be
            farther away than `within`.
    """

    kind: Kind
    why: Why
    pictures: Sequence[Duplicate]

    @property
    def spare_bytes(self) -> int:
        """The bytes of all but the picture to keep."""
        return sum(one.length for one in self.pictures[1:])


@dataclass(frozen=True)
class Duplicates(Answer):
    """The groups of a table.

    Attributes:
        table: canonical path of the output or snapshot.
        model: by whose features scenes were compared.
        within: the greatest distance of two pictures of one scene.
        burst: in seconds, the longest time between them; None for any.
        compared: the number of rows that were compared by their bytes.
        left_out: the number of rows of other models, which were compared by their bytes only.
        untimed: the number of rows that could not be in a burst, as they do not say when or by which camera.
        spare: the number of pictures beside those to keep.
        spare_bytes: their bytes.
        groups: those with the most pictures first.
        page: the page that shows them; None if none was written.
    """

    table: str
    model: str
    within: float
    burst: float | None
    compared: int
    left_out: int
    untimed: int
    spare: int
    spare_bytes: int
    groups: Sequence[Group]
    page: str | None = None

    def rows(self) -> Iterator[Row]:
        """The figures, and the pictures of the largest groups."""
        burst = "" if self.burst is None else f", of one camera within {self.burst:g} s"
        yield "table", self.table
        yield "model", self.model
        yield "compared", f"{plural(self.compared, 'picture')}; one scene: cosine distance up to {self.within:g}{burst}"
        if self.left_out:
            yield "by bytes", f"{self.left_out:,} of them only, as they are of other models; {explain_models()}"
        if self.untimed:
            yield "by bytes", f"{self.untimed:,} of them only, as they do not say when or by which camera"
        of_bytes = sum(group.kind is Kind.SAME_BYTES for group in self.groups)
        of_scenes = len(self.groups) - of_bytes
        yield "groups", f"{len(self.groups):,}: {of_bytes:,} of the same bytes, {of_scenes:,} of the same scene"
        yield "to spare", f"{plural(self.spare, 'picture')}, {self.spare_bytes:,} bytes"
        if self.page:
            yield "page", self.page
        for group in self.groups[:_SHOWN]:
            yield ""
            yield f"{group.kind}, {len(group.pictures):,} pictures"
            yield from _lines(group)
        if len(self.groups) > _SHOWN:
            yield ""
            yield f"and {plural(len(self.groups) - _SHOWN, 'smaller group')}; --json has all"

    def next_step(self) -> str | None:
        """To look at them, if there is no page yet."""
        return "the same command with --html duplicates.html" if self.groups and self.page is None else None


def _lines(group: Group) -> Iterator[str]:
    for one in group.pictures[:_SHOWN]:
        distance = "other model" if one.distance is None else f"{one.distance:.4f}"
        word, said = ("keep", group.why.explained) if one is group.pictures[0] else ("spare", distance)
        yield f"  {word:<5}  {one.path}  {one.width} x {one.height}, {one.length:,} bytes: {said}"
    if len(group.pictures) > _SHOWN:
        yield f"  and {len(group.pictures) - _SHOWN:,} more"


def duplicates(settings: Settings, request: DuplicatesRequest) -> Duplicates:
    """The groups of pictures with the same bytes or of the same scene.

    Raises:
        SettingsError: the table, its files or the model do not allow it.
        OutputError: there is no such table, or a file of it is damaged.
    """
    table = open_table(settings, request.table, S3Connection.of(settings.s3))
    model = choose_model(table, request.model)
    denylist = table.denylist()
    with Vectors() as vectors:
        rows = _Rows.read(table, model, vectors, denylist)
        groups = Groups(len(rows.place))
        firsts = _join_same_bytes(rows, groups)
        untimed = _join_scenes(rows, firsts, request, groups)
        forgotten = table.denylist()  # also what was forgotten meanwhile
        found = [_group(rows, members) for members in _shown(rows, groups, forgotten)]
    found.sort(key=lambda group: (-len(group.pictures), group.pictures[0].path))
    return Duplicates(
        table=table.path,
        model=model,
        within=request.within,
        burst=None if request.burst is None else request.burst.total_seconds(),
        compared=len(rows.place),
        left_out=int((rows.place < 0).sum()),
        untimed=untimed,
        spare=sum(len(group.pictures) - 1 for group in found),
        spare_bytes=sum(group.spare_bytes for group in found),
        groups=found,
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """All rows of a table.

    Attributes:
        described: their columns `_DESCRIBED`.
        place: (n,) int64, of each among `vectors`; -1 for those of other models.
        vectors: of the rows of the model.
    """

    described: pa.Table
    place: Places
    vectors: Vectors

    @classmethod
    def read(cls, table: SearchTable, model: str, vectors: Vectors, denylist: Denylist) -> _Rows:
        """The rows that are not forgotten.

        Raises:
            SettingsError: none is of the model.
        """

        def look(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, NDArray[np.bool_], NDArray[np.float32]]:
            if denylist:
                batch = batch.filter(denylist.mask(pa.chunked_array([batch.column("path")])))
            of_model = pc.equal(batch.column("model_version"), model)
            features = matrix(batch.column("features").filter(of_model))
            return batch.select([*_DESCRIBED]), of_model.to_numpy(zero_copy_only=False), features

        described, places, seen = [], [], 0
        for batch, of_model, features in scan(table, (*_DESCRIBED, "model_version", "features"), look):
            if len(features):
                vectors.add(features, seen + np.flatnonzero(of_model))
            described.append(batch)
            places.append(of_model)
            seen += len(batch)
        of_any = np.concatenate(places) if places else np.empty(0, np.bool_)
        if not of_any.any():
            raise no_rows_of(table, model, seen)
        vectors.finish()
        return cls(pa.Table.from_batches(described), np.where(of_any, np.cumsum(of_any) - 1, -1), vectors)


def _join_same_bytes(rows: _Rows, groups: Groups) -> Places:
    """Join the rows with the same bytes; returns one row of the model of each group, and those that stay alone."""
    column = rows.described.column("sha256")
    known = np.flatnonzero(pc.is_valid(column).to_numpy())
    codes = column.drop_null().combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    known, codes = known[order], codes[order]
    same = np.flatnonzero(codes[1:] == codes[:-1])
    groups.join(known[same], known[same + 1])
    of_model = np.flatnonzero(rows.place >= 0)
    _, first = np.unique(groups.roots(of_model), return_index=True)
    return of_model[np.sort(first)]


def _join_scenes(rows: _Rows, firsts: Places, request: DuplicatesRequest, groups: Groups) -> int:
    """Join the rows of one scene; returns how many cannot be in a burst, if bursts are asked for."""
    if request.burst is None:
        join_near(rows.vectors, rows.place[firsts], request.within, groups)
        return 0
    cameras = rows.described.column("camera").combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    captured = rows.described.column("captured_at").to_pylist()
    timed = [row for row in firsts.tolist() if cameras[row] >= 0 and captured[row]]
    moments = [datetime.fromisoformat(captured[row]) for row in timed]
    clock = Clock(
        # A time without an offset is of an unknown place on earth, and cannot be compared with one that has it.
        series=np.array(
            [2 * cameras[row] + (moment.tzinfo is not None) for row, moment in zip(timed, moments, strict=True)]
        ),
        times=np.array([_microseconds(moment) for moment in moments], np.int64),
        longest=request.burst // timedelta(microseconds=1),
    )
    chosen = np.array(timed, np.int64)
    join_bursts(rows.vectors, rows.place[chosen], clock, request.within, groups)
    return len(firsts) - len(timed)


def _microseconds(moment: datetime) -> int:
    start = datetime(1970, 1, 1, tzinfo=UTC if moment.tzinfo else None)
    return (moment - start) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class _Member:
    """A row of a group: its place among the vectors, or -1, and its columns."""

    place: int
    columns: dict[str, Any]

    @property
    def preference(self) -> tuple[int, int, datetime, str]:
        """Sorts the picture to keep first; in the order of `Why`."""
        one = self.columns
        return -one["width"] * one["height"], -one["length"], one["modification_time"], one["path"]


def _shown(rows: _Rows, groups: Groups, forgotten: Denylist) -> Iterator[list[_Member]]:
    """The groups of two rows or more that may be shown; the row to keep first."""
    several = list(groups.several())
    if not several:
        return
    everyone = np.concatenate(several)
    described = iter(zip(rows.place[everyone].tolist(), rows.described.take(everyone).to_pylist(), strict=True))
    for group in several:
        members = [_Member(*one) for one in islice(described, len(group))]
        shown = [one for one in members if not forgotten.is_forgotten(one.columns["path"])]
        if len(shown) > 1:
            yield sorted(shown, key=lambda one: one.preference)


def _group(rows: _Rows, members: Sequence[_Member]) -> Group:
    first, second, *_ = members
    ahead = (why for why, its, others in zip(Why, first.preference, second.preference, strict=True) if its != others)
    why = next(ahead, Why.FIRST_BY_PATH)
    places = np.array([one.place for one in members])
    distances = rows.vectors.distances(np.full(len(places), first.place), places).tolist()
    pictures = [
        Duplicate(**one.columns, distance=None if min(first.place, one.place) < 0 else distance)
        for one, distance in zip(members, distances, strict=True)
    ]
    pictures[1:] = sorted(pictures[1:], key=lambda one: (one.distance is None, one.distance, one.path))
    digests = {one.sha256 for one in pictures}
    same = len(digests) == 1 and None not in digests
    return Group(Kind.SAME_BYTES if same else Kind.SAME_SCENE, why, pictures)
