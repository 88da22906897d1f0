"""The table of the Glue catalog that shows the newest snapshot: what Athena needs of it, and never an earlier one."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from cfnlint.decode import decode

from conf.aws.connection import S3Connection, forget_clients
from streaming.__main__ import main as stream
from streaming.export import glue
from streaming.export.glue import columns, point_table
from streaming.export.record import latest
from streaming.features.schema import EMBEDDINGS, FEATURES, QUARANTINE
from streaming.storage.folder import Folder
from streaming.storage.locations import open_folder
from tests.support.buckets import new_bucket
from tests.support.exports import Asked, export_arguments
from tests.support.refusals import refusing
from tests.support.small_table import commit, fill
from tests.support.streams import PROJECT, begin


@dataclass(frozen=True)
class Exports:
    """An output with rows, a folder of exports on S3, and a database of the catalog."""

    output: Folder
    to: Folder
    database: str
    glue: Any
    ask: Asked

    @property
    def name(self) -> str:
        return f"{self.database}.rows"

    def export(self, *more: str, code: int = 0) -> str:
        return self.ask("--glue-table", self.name, *more, code=code)

    def table(self) -> dict[str, Any]:
        found: dict[str, Any] = self.glue.get_table(DatabaseName=self.database, Name="rows")["Table"]
        return found

    def newest(self) -> str:
        present = latest(self.to)
        assert present
        return present.snapshot

    def shown(self) -> str:
        """The snapshot that the table shows."""
        location = str(self.table()["StorageDescriptor"]["Location"])
        return location.removeprefix(f"{self.to.root}/").partition("/")[0]


@pytest.fixture
def exports(
    tmp_path: Path, moto_address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Exports]:
    output = open_folder(str(tmp_path / "out"))
    begin(output)
    fill(output)
    with new_bucket(moto_address, monkeypatch) as bucket:
        to, client = open_folder(f"s3://{bucket.name}/exports"), S3Connection().client("glue")
        database = bucket.name.replace("-", "_")
        client.create_database(DatabaseInput={"Name": database})
        yield Exports(output, to, database, client, Asked(output, to, capsys))


def test_the_table_shows_each_snapshot_as_athena_needs_it(exports: Exports) -> None:
    """Its columns, and folders by day that Athena works out by itself; it names the model and the snapshot."""
    assert exports.export().splitlines()[1] == f"table        {exports.name} in the Glue catalog"
    table, newest = exports.table(), exports.newest()
    folder = f"{exports.to.root}/{newest}"
    assert table["TableType"] == "EXTERNAL_TABLE"
    assert table["PartitionKeys"] == [{"Name": "date", "Type": "string"}]
    assert (
        table["Parameters"].items()
        >= {
            "classification": "parquet",
            "picture-features.snapshot": newest,
            "picture-features.model": "as-ingested",
            "projection.enabled": "true",
            "projection.date.type": "date",
            "projection.date.range": "2026-01-30,2026-02-01",
            "storage.location.template": f"{folder}/date=${{date}}/",
        }.items()
    )
    storage = table["StorageDescriptor"]
    assert storage["Location"] == f"{folder}/"
    assert storage["SerdeInfo"]["SerializationLibrary"].endswith(".ParquetHiveSerDe")
    assert {"Name": "features", "Type": "array<float>"} in storage["Columns"]
    assert [column["Name"] for column in storage["Columns"]] == FEATURES.names
    commit(exports.output, 5, ["/later.jpg"])
    exports.export()
    assert exports.newest() != newest
    assert exports.shown() == exports.newest()
    assert exports.table()["Parameters"]["projection.date.range"] == "2026-01-30,2026-02-04"


def test_an_export_without_anything_new_mends_the_table_and_leaves_a_sound_one(exports: Exports) -> None:
    """It is not written where it is right: each write would be another version."""
    exports.export()

    def versions() -> int:
        return len(exports.glue.get_table_versions(DatabaseName=exports.database, TableName="rows")["TableVersions"])

    before = versions()
    said = exports.export()
    assert said.startswith("nothing new: ")
    assert f"\ntable        {exports.name} in the Glue catalog\n" in said
    assert versions() == before
    exports.glue.delete_table(DatabaseName=exports.database, Name="rows")
    assert exports.export().startswith("nothing new: ")
    assert exports.shown() == exports.newest()


def test_where_glue_refuses_the_snapshot_is_safe_and_the_next_export_mends_the_table(
    exports: Exports, moto_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, a code other than 0, and no snapshot deleted that the table may show."""
    with refusing("AccessDeniedException", 400) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_GLUE", address)
        forget_clients()
        told = exports.export("--keep", "1", code=6)
        [line] = told.splitlines()
        assert f"Glue table {exports.name}: access denied; grant glue:GetTable" in line
    first = exports.newest()
    with refusing("InternalServiceException", 500) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_GLUE", address)
        forget_clients()
        commit(exports.output, 5, ["/later.jpg"])
        assert "Glue is overloaded or failing" in exports.export("--keep", "1", "--no-wait", code=6)
    assert exports.newest() != first
    assert next(exports.to.names(first), None)
    monkeypatch.setenv("AWS_ENDPOINT_URL_GLUE", moto_address)
    forget_clients()
    assert exports.export("--keep", "1").startswith("nothing new: ")
    assert exports.shown() == exports.newest()
    assert not next(exports.to.names(first), None)


def test_a_database_that_is_missing_is_named(exports: Exports) -> None:
    """Who may create a table need not have the right to create databases."""
    told = exports.ask("--glue-table", "nowhere.rows", code=6)
    assert "Glue table nowhere.rows: there is no database 'nowhere' in the catalog; create it" in told
    assert exports.newest()


def _meanwhile(exports: Exports, monkeypatch: pytest.MonkeyPatch, method: str, act: Callable[[], None]) -> list[Any]:
    """Somebody acts once, between an exporter's decision to change the table and that change; gives the changes."""
    change, calls = getattr(glue._Table, method), list[Any]()

    def late(table: Any, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            act()
        return change(table, *arguments)

    monkeypatch.setattr(glue._Table, method, late)
    return calls


@pytest.mark.parametrize("late", ["refused", "let through"])
def test_of_two_exports_at_once_the_later_snapshot_wins(
    exports: Exports, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the catalog refuses a change to a version that is not there any more, as Glue's does, or lets it pass."""
    exports.export()
    commit(exports.output, 5, ["/later.jpg"])
    exports.ask()
    waiting = exports.newest()

    def overtake() -> None:
        commit(exports.output, 6, ["/latest.jpg"])
        exports.export()
        if late == "refused":
            monkeypatch.setattr(glue._Table, "update", refuse_once)

    update = glue._Table.update

    def refuse_once(_table: Any, *_: Any) -> bool:
        monkeypatch.setattr(glue._Table, "update", update)
        return False

    calls = _meanwhile(exports, monkeypatch, "update", overtake)
    point_table(exports.name, exports.to, S3Connection())
    assert calls
    assert exports.newest() != waiting
    assert exports.shown() == exports.newest()


def test_of_two_that_create_the_table_at_once_neither_fails(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds it right."""
    exports.ask()
    calls = _meanwhile(exports, monkeypatch, "create", lambda: point_table(exports.name, exports.to, S3Connection()))
    point_table(exports.name, exports.to, S3Connection())
    assert len(calls) == 2
    assert exports.shown() == exports.newest()


def test_the_change_names_the_version_that_was_read(exports: Exports) -> None:
    """So that Glue, other than moto, refuses it if another program was faster; and no former version is kept."""
    exports.export()
    commit(exports.output, 5, ["/later.jpg"])
    sent: list[dict[str, Any]] = []
    client = S3Connection().client("glue")
    client.meta.events.register("provide-client-params.glue.UpdateTable", lambda params, **_: sent.append(params))
    version = exports.table()["VersionId"]
    exports.export()
    [params] = sent
    assert (params["VersionId"], params["SkipArchive"]) == (version, True)


def test_a_table_of_something_else_is_left_alone(exports: Exports) -> None:
    """Such as the one of the stream's own rows, which has the same columns."""
    theirs = {"Name": "rows", "StorageDescriptor": {"Location": "s3://elsewhere/table/features/"}}
    exports.glue.create_table(DatabaseName=exports.database, TableInput=theirs)
    told = exports.export(code=5)
    assert f"{exports.name} shows s3://elsewhere/table/features, and no snapshot in {exports.to.root}" in told
    assert exports.table()["StorageDescriptor"]["Location"] == "s3://elsewhere/table/features/"


def test_csv_is_shown_with_the_columns_of_its_model(exports: Exports) -> None:
    """As its header names them, in types that Athena's reader of CSV knows; several models are not one table."""
    told = exports.export("--format", "csv", code=5)
    refused = "has rows of 2 models, and a table of CSV has the columns of one; export as parquet"
    assert refused in told
    assert latest(exports.to) is None
    exports.ask("--format", "csv")
    assert refused in exports.export("--format", "csv", code=5)  # though there is nothing new
    exports.to.delete_tree("")
    exports.export("--format", "csv", "--since", date(2026, 2, 1).isoformat(), code=5)
    day = exports.output.root
    for file in Path(day, "features").glob("date=2026-02-01/*"):
        file.unlink()
    exports.export("--format", "csv")
    table, present = exports.table(), latest(exports.to)
    assert present
    storage = table["StorageDescriptor"]
    assert storage["Location"] == f"{exports.to.root}/{present.snapshot}/one/"
    assert storage["SerdeInfo"]["SerializationLibrary"] == "org.apache.hadoop.hive.serde2.OpenCSVSerde"
    assert table["Parameters"]["skip.header.line.count"] == "1"
    assert not table["PartitionKeys"]
    name = next(name for name in exports.to.names(present.snapshot) if name.endswith(".csv.gz"))
    header = next(csv.reader(gzip.decompress(exports.to.read(name)).decode().splitlines()))
    assert [column["Name"] for column in storage["Columns"]] == header
    types = {column["Name"]: column["Type"] for column in storage["Columns"]}
    assert (types["path"], types["length"], types["width"], types["f3"]) == ("string", "bigint", "int", "double")
    assert (types["date"], types["processed_at"], types["confidence"]) == ("string",) * 3
    assert set(types.values()) <= {"string", "bigint", "int", "double"}


def test_a_table_needs_a_name_and_snapshots_on_s3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is one line, before anything is exported."""
    output, to = open_folder(str(tmp_path / "out")), open_folder(str(tmp_path / "to"))
    begin(output)
    fill(output)
    assert stream(export_arguments(output, to, "--glue-table", "db.rows")) == 2
    assert "export.glue_table: a table shows a folder on S3, and --to is " in capsys.readouterr().err
    assert stream(export_arguments(output, to, "--glue-table", "Rows")) == 2
    assert "'Rows' (from the command line) is not allowed: a table is DATABASE.TABLE" in capsys.readouterr().err
    assert latest(to) is None


def test_the_tables_of_the_cluster_have_the_same_columns() -> None:
    """The templates declare those of the stream's own tables: of one schema, in one way."""
    schemas = {"features": FEATURES, "embeddings": EMBEDDINGS, "quarantine": QUARANTINE}
    declared = {}
    for file in (PROJECT / "conf" / "emr").glob("*.yaml"):
        if "AWS::Glue::Table" in file.read_text(encoding="utf-8"):
            template, _ = decode(str(file))
            for resource in template["Resources"].values():
                if resource["Type"] == "AWS::Glue::Table" and resource["Properties"]["TableInput"]["Name"] in schemas:
                    table = resource["Properties"]["TableInput"]
                    declared[table["Name"]] = table
    assert declared.keys() == schemas.keys()
    for name, table in declared.items():
        storage = table["StorageDescriptor"]
        assert storage["Columns"] == columns(schemas[name])
        assert table["PartitionKeys"] == glue._PARTITIONS
        assert storage["SerdeInfo"]["SerializationLibrary"] == f"{glue._HIVE}.parquet.serde.ParquetHiveSerDe"
        assert storage["InputFormat"] == f"{glue._HIVE}.parquet.MapredParquetInputFormat"
