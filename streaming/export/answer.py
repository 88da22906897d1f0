"""The answers of `export` and of `export --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.compute as pc

from conf.answers import Answer, Row, reading
from conf.plural import plural
from streaming.export.models import AS_INGESTED
from streaming.export.plan import ExportPlan
from streaming.export.record import Snapshot
from streaming.output.decision import FEATURES_TABLE
from streaming.storage.locations import is_on_s3


@dataclass(frozen=True)
class Exported(Answer):
    """The outcome of an export, also of one that was only tried, if there is nothing new.

    Attributes:
        snapshot: the latest snapshot now.
        plan: the plan that was carried out.
        seconds: the duration.
        table: the table of the Glue catalog that shows the snapshot; None if none was asked for.
    """

    snapshot: Snapshot
    plan: ExportPlan
    seconds: float
    table: str | None = None

    @property
    def path(self) -> str:
        """Canonical path of the snapshot."""
        return self.plan.places.to.path(self.snapshot.snapshot)

    def rows(self) -> Iterator[Row]:
        """A row for each figure."""
        snapshot, kept = self.snapshot, len(self.plan.kept)
        if self.plan.up_to_date:
            yield self._nothing_new()
            yield from self._left_out()
        else:
            yield "snapshot", self.path
        if self.table:
            yield "table", f"{self.table} in the Glue catalog"
        if self.plan.up_to_date:
            return
        over = f", {kept:,} of them taken over from {self.plan.base.snapshot}" if self.plan.base and kept else ""
        yield "model", snapshot.model or AS_INGESTED
        yield "rows", f"{snapshot.rows:,} of {plural(snapshot.manifests, 'manifest')}"
        yield from self._left_out()
        yield "up to", f"manifest {snapshot.latest_manifest}"
        yield "files", f"{len(snapshot.files):,}{over}"
        yield "bytes", f"{snapshot.bytes:,}"
        yield "seconds", f"{self.seconds:.1f}"

    def _nothing_new(self) -> str:
        snapshot, places = self.snapshot, self.plan.places
        return (
            f"nothing new: {self.path} holds {'' if snapshot.left_out else 'all '}"
            f"{plural(snapshot.rows, 'row')} of {places.output.path(FEATURES_TABLE)}"
            f"{f' since {snapshot.since}' if snapshot.since else ''}"
            f"{f' in model {snapshot.model}' if snapshot.model else ''} already"
        )

    def _left_out(self) -> Iterator[Row]:
        """How many rows the snapshot lacks, and how to have them; nothing if it lacks none."""
        if self.snapshot.left_out:
            line = (
                f"{plural(self.snapshot.left_out, 'row')} of other models without an embedding of this model's "
                f"backbone; replay their pictures into a new output to have them in this model, or export with "
                f"--model {AS_INGESTED}"
            )
            yield "left out", line

    def next_step(self) -> str | None:
        """To read the snapshot, or of CSV its first file, which pandas reads from a disk only."""
        if self.snapshot.format == "parquet":
            return reading(self.path)
        if is_on_s3(self.path) or not self.snapshot.files:
            return None
        return reading(f"{self.path}/{self.snapshot.files[0].name}", "read_csv")

    def document(self) -> dict[str, object]:
        """The figures for programs."""
        snapshot, plan = self.snapshot, self.plan
        return {
            "output": snapshot.output,
            "to": plan.places.to.root,
            "snapshot": snapshot.snapshot,
            "new": plan.up_to_date is None,
            "format": snapshot.format,
            "model": snapshot.model,
            "since": snapshot.since,
            "rows": snapshot.rows,
            "left_out": snapshot.left_out,
            "manifests": snapshot.manifests,
            "latest_manifest": snapshot.latest_manifest,
            "files": len(snapshot.files),
            "taken_over": 0 if plan.up_to_date else len(plan.kept),
            "bytes": snapshot.bytes,
            "seconds": self.seconds,
            "table": self.table,
        }


@dataclass(frozen=True)
class Planned(Answer):
    """The plan of an export that has something to write.

    Attributes:
        output, to: canonical paths.
        model: the version of the model of all rows; None leaves each in its own.
        write_days, write_files, write_bytes: of the table.
        embeddings_bytes: to be read beside these, at most.
        base: the id of the snapshot from which files would be taken over; None if none would.
        keep_days, keep_files: of `base`.
    """

    output: str
    to: str
    model: str | None
    write_days: int
    write_files: int
    write_bytes: int
    embeddings_bytes: int
    base: str | None
    keep_days: int
    keep_files: int

    @classmethod
    def of(cls, plan: ExportPlan) -> Planned:
        """The figures of a plan."""
        files = plan.sources
        return cls(
            output=plan.places.output.root,
            to=plan.places.to.root,
            model=plan.model.version if plan.model else None,
            write_days=len(plan.write),
            write_files=len(files),
            write_bytes=pc.sum(files.column("length")).as_py() or 0,
            embeddings_bytes=pc.sum(files.column("embeddings_length")).as_py() or 0,
            base=plan.base.snapshot if plan.base and plan.kept else None,
            keep_days=len(plan.keep),
            keep_files=len(plan.kept),
        )

    def rows(self) -> Iterator[Row]:
        """What would be written, and kept."""
        beside = f", and at most {self.embeddings_bytes:,} bytes of embeddings" if self.embeddings_bytes else ""
        files = f"{plural(self.write_files, 'file')} of the table, {self.write_bytes:,} bytes{beside}"
        yield "would write", f"{plural(self.write_days, 'day')}: {files}"
        kept = f"{plural(self.keep_files, 'file')}{f' of {self.base}' if self.base else ''}"
        yield "would keep", f"{plural(self.keep_days, 'day')}: {kept}"
        yield "model", self.model or AS_INGESTED
        yield "into", f"a new folder in {self.to}"

    def next_step(self) -> str:
        """To do it."""
        return "the same command without --dry-run"
