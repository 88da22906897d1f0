"""Opens what `--table` names: an output, a folder of exports, or one of its snapshots."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.compute as pc

from conf.aws.connection import S3Connection
from conf.errors import OutputError, SettingsError
from conf.settings import Settings
from streaming.export.record import find_record, latest, read_snapshot
from streaming.lease.denylist import Denylist
from streaming.output.decision import FEATURES_TABLE
from streaming.output.format_number import check_format
from streaming.output.lineage import derivatives
from streaming.output.manifests import is_log
from streaming.output.tables import EMPTY, Tables
from streaming.registry.bundle import MANIFEST, Bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from streaming.storage.parquet import parquet_files, read_rows


@dataclass(frozen=True)
class SearchTable:
    """The files of a table of features, as they were listed.

    Attributes:
        path: canonical path of the output or the snapshot.
        folder: has the files.
        files: their names in it, in order.
        output: that the rows come from. It has the denylist, and names the registries.
        model: of all rows; None if a row may be of any.
    """

    path: str
    folder: Folder
    files: tuple[str, ...]
    output: Folder
    model: str | None = None

    @property
    def is_output(self) -> bool:
        """Whether it is an output, not a snapshot of one."""
        return self.path == self.output.root

    def denylist(self) -> Denylist:
        """The pictures that must not be shown, as of now."""
        return Denylist.load(self.output)

    def bundle(self, version: str, models: str | None, connection: S3Connection) -> Bundle:
        """A model, from the registry at `models`, or else from one that the output has used.

        Raises:
            SettingsError: it is not known which registry has it.
            BundleError: it was changed.
        """
        uris = [models] if models else [one.uri for one in derivatives(self.output) if one.kind == "models"]
        for registry in (open_folder(uri, connection) for uri in uris):
            if registry.exists(f"{version}/{MANIFEST}"):
                return Registry(registry).open(version)
        looked = f"{', '.join(uris)} has no model {version}" if uris else f"{self.output.root} names no registry"
        raise SettingsError(f"models: {looked}; give --models URI of the registry that has it")


def open_table(settings: Settings, given: str | None, connection: S3Connection) -> SearchTable:
    """The table at `given`, or else the latest snapshot of export.to, or else the output of the settings.

    Raises:
        SettingsError: no table was named, or its files are CSV.
        OutputError: there is none, or it has no rows.
    """
    uri = given or settings.export.to or settings.output
    if not uri:
        raise SettingsError("--table: is missing; give an output, a folder of exports, or a snapshot")
    folder = open_folder(uri, connection)
    check_format(folder)
    if is_log(folder):
        table = _output(folder)
    elif present := latest(folder):
        table = _snapshot(folder, present.snapshot, connection)
    else:
        parent, _, name = folder.root.rpartition("/")
        exports = open_folder(parent or "/", connection)
        if find_record(exports, name) is None:
            raise OutputError(
                f"{folder.root} is neither an output nor a folder of exports nor a snapshot in one; check --table"
            )
        table = _snapshot(exports, name, connection)
    if not table.files:
        raise OutputError(f"{table.path} has no rows yet; run or replay a stream first")
    return table


def _output(output: Folder) -> SearchTable:
    names = parquet_files(output, FEATURES_TABLE)
    return SearchTable(
        output.root, output, tuple(name for name in names if not name.endswith(f"/{EMPTY}.parquet")), output
    )


def _snapshot(exports: Folder, snapshot: str, connection: S3Connection) -> SearchTable:
    described = read_snapshot(exports, snapshot)
    path = exports.path(snapshot)
    if described.format != "parquet":
        raise SettingsError(
            f"--table: {path} is CSV; export with --format parquet into another folder, or give the output"
        )
    names = tuple(f"{snapshot}/{file.name}" for file in described.files if file.rows)
    return SearchTable(path, exports, names, open_folder(described.output, connection), described.model)


def choose_model(table: SearchTable, wanted: str | None) -> str:
    """The model whose rows are compared: the wanted one, or that of the latest rows.

    Raises:
        OutputError: no model is wanted, and the table has no rows.
    """
    model = wanted or table.model or (Tables(table.output).latest_model() if table.is_output else _latest_in(table))
    if not model:
        raise OutputError(f"{table.path} has no rows yet; run or replay a stream first")
    return model


def _latest_in(snapshot: SearchTable) -> str | None:
    """The model of the row of a snapshot that was processed last; its rows are in the order of their paths."""
    day = snapshot.files[-1].rpartition("/")[0] if snapshot.files else ""
    files = [name for name in snapshot.files if name.startswith(f"{day}/")]
    latest = []
    for name in files:
        rows = read_rows(snapshot.folder, name, ["processed_at", "model_version"])
        times = rows.column("processed_at")
        last = pc.max(times)
        latest.append((last.as_py(), rows.column("model_version")[pc.index(times, last).as_py()].as_py()))
    return str(max(latest)[1]) if latest else None


def no_rows_of(table: SearchTable, model: str, others: int) -> SettingsError:
    """The error that no row is of the model."""
    return SettingsError(
        f"{table.path} has no rows of model {model}, and {others:,} of others; status shows the model of the "
        "latest rows"
    )


def explain_models() -> str:
    """How to have rows of several models compared."""
    return "an export has all rows in one model, and --model VERSION compares those of another"
