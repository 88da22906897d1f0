"""The denylist and what honours it, without Spark."""

from __future__ import annotations

import csv
import gzip
import io
import threading
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from batch_fit.forgotten import Draft, delete_if_forgotten
from batch_fit.sample import choose
from conf.aws.connection import AWS_DEFAULTS
from conf.errors import BundleError, ConflictError, InputError, OutputError
from streaming.forget.files import File, visit
from streaming.forget.log import erase_in_manifest, erase_in_request
from streaming.forget.receipts import Ledger
from streaming.lease import handshake
from streaming.lease.denylist import Denylist, Entry, add_entry, add_missing, hash_path, make_salt, read_entries
from streaming.lease.handshake import Notice, wait_until_noticed
from streaming.lease.holder import Holder
from streaming.lease.lease import Lease
from streaming.lease.tenure import Tenure
from streaming.output import known, manifests, requests
from streaming.output.decision import is_decided
from streaming.output.inbox import Inbox
from streaming.output.known import KnownPictures
from streaming.output.manifest_log import ManifestLog, withdraw_repeating
from streaming.output.rows import count_rows, erase_in, forgotten_paths, without_forgotten
from streaming.output.tables import Tables
from streaming.registry import bundle
from streaming.registry.registry import Registry
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import open_folder, resolve_key
from streaming.storage.parquet import as_parquet

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)
PATHS = [f"s3://b/in/é %{number}.jpg" for number in range(5)]
PICTURES = [StoredPicture(path, 1, NOW) for path in PATHS]


def _deny(folder: Folder, *paths: str, prefixes: tuple[str, ...] = ()) -> Entry:
    entry = Entry.of(paths, prefixes, make_salt(folder), NOW)
    add_entry(folder, entry)
    return entry


def test_exact_paths_and_prefixes_are_told_from_others(output: Folder) -> None:
    """By hashes alone; nothing in the files names them."""
    _deny(output, PATHS[0], PATHS[1], prefixes=("s3://b/in/é/anna/", "s3://b/ñ"))
    denylist = Denylist.load(output)
    forgotten = [*PATHS[:2], "s3://b/in/é/anna/", "s3://b/in/é/anna/1.jpg", "s3://b/ñandu.jpg"]
    assert [path for path in forgotten if not denylist.is_forgotten(path)] == []
    others = [
        *PATHS[2:],
        "s3://b/in/é/anna",
        "s3://b/in/é/annabel/1.jpg",
        f"{PATHS[0]}x",
        PATHS[0][:-1],
        "",
        "s3://b/n",
    ]
    assert [path for path in others if denylist.is_forgotten(path)] == []
    rows = pa.table({"path": [*others, *forgotten], "n": range(len(others) + len(forgotten))})
    assert denylist.without(rows)["path"].to_pylist() == others
    written = b"".join(output.read(name) for name in output.names(""))
    assert b"anna" not in written
    assert b".jpg" not in written


def test_the_same_is_one_entry_and_outputs_cannot_be_compared(output: Folder, tmp_path: Path) -> None:
    """In any order, however often; but a registry honours the entries of several outputs."""
    entry = _deny(output, *PATHS[:2])
    assert _deny(output, PATHS[1], PATHS[0], PATHS[1]).id == entry.id
    other, models = open_folder(str(tmp_path / "other")), open_folder(str(tmp_path / "models"))
    assert _deny(other, PATHS[0], PATHS[1]).paths != entry.paths
    _deny(other, PATHS[3])
    for folder in (output, other, output):
        add_missing(models, list(read_entries(folder)))
    assert len(Denylist.load(models).ids) == 3
    assert [path for path in PATHS if not Denylist.load(models).is_forgotten(path)] == [PATHS[2], PATHS[4]]
    assert hash_path(PATHS[0], make_salt(output)).hex() in entry.paths


def test_a_changed_entry_is_refused_by_name(output: Folder) -> None:
    """Taking in what must be forgotten, in silence, would be worse than stopping."""
    entry = _deny(output, PATHS[0])
    name = f"_forgotten/entries/{entry.id}.json"
    output.replace(name, b"{}", output.read_tagged(name)[1])
    with pytest.raises(
        OutputError, match=f"{entry.id}.json cannot be read: .* stop all streams, delete it, and run forget"
    ):
        Denylist.load(output)


@pytest.mark.parametrize("kind", ["progress", "receipts"])
def test_a_changed_record_of_a_run_is_refused_by_name(output: Folder, kind: str) -> None:
    """In one line that says what to do."""
    entry = _deny(output, PATHS[0])
    output.create(f"_forgotten/{kind}/{entry.id}.json", b'{"removed": 1}')
    with pytest.raises(OutputError, match=f"{kind}/{entry.id}.json was changed .* forget again"):
        Ledger.load(output, entry)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("s3a://b/in/", "s3://b/in/"),
        ("s3a://b", "s3://b/"),
        ("s3://b/a//b%20?#", "s3://b/a//b%20?#"),
        ("/a/../b/", "/b/"),
        ("/", "/"),
        ("file:///a%20b/", "/a b/"),
    ],
)
def test_a_key_is_taken_as_tables_have_it(typed: str, key: str) -> None:
    """With the slashes at its end: one folder is not all whose names begin so."""
    assert resolve_key(typed) == key


def test_what_stays_of_a_file_stays_as_it_is(output: Folder) -> None:
    """Order, schema with its metadata, compression and row groups; of lines, each byte."""
    _deny(output, PATHS[1], PATHS[4])
    denylist = Denylist.load(output)
    schema = pa.schema([pa.field("path", pa.string(), nullable=False), pa.field("n", pa.int8())], {"whose": "theirs"})
    table = pa.table({"path": PATHS, "n": [0, None, 2, 3, 4]}, schema=schema)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=2, compression="snappy")
    data = buffer.getvalue().to_pybytes()
    assert forgotten_paths("a.parquet", data, denylist) == [PATHS[1], PATHS[4]]
    kept = pq.ParquetFile(pa.BufferReader(without_forgotten("a.parquet", data, denylist)))
    assert kept.read() == table.take([0, 2, 3])
    assert kept.schema_arrow.metadata == schema.metadata
    assert [kept.metadata.row_group(group).num_rows for group in range(kept.num_row_groups)] == [1, 2, 0][
        : kept.num_row_groups
    ]
    assert kept.metadata.row_group(0).column(0).compression == "SNAPPY"
    lines = [f'{{"path":  "{path}", "x": 1}}\n'.encode() for path in PATHS]
    assert forgotten_paths("a.json", b"".join(lines), denylist) == [PATHS[1], PATHS[4]]
    assert without_forgotten("a.json", b"".join(lines), denylist) == lines[0] + lines[2] + lines[3]
    assert without_forgotten("a.json", b"".join(lines[1:2]), denylist) == b""


def test_what_stays_of_a_csv_stays_as_it_is(output: Folder) -> None:
    """Whatever a path has in it, line ends and quotes included."""
    odd = ['a,"b\n\u2028c".jpg', "plain.jpg", '"', "\r\n", "é"]
    _deny(output, odd[0], odd[3])
    denylist = Denylist.load(output)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
        pacsv.write_csv(pa.table({"n": range(5), "path": odd, "f0": [0.1] * 5}), file)
    data = buffer.getvalue()
    assert forgotten_paths("a.csv.gz", data, denylist) == [odd[0], odd[3]]
    assert count_rows("a.csv.gz", data) == 5
    kept = gzip.decompress(without_forgotten("a.csv.gz", data, denylist))
    assert [row["path"] for row in csv.DictReader(io.StringIO(kept.decode(), newline=""))] == [odd[1], odd[2], odd[4]]
    lines = gzip.decompress(data).splitlines(keepends=True)
    assert kept.splitlines(keepends=True)[0] == lines[0]
    assert set(kept.splitlines(keepends=True)) < set(lines)


def test_a_large_csv_is_not_held_as_text(output: Folder) -> None:
    """Its text is many times as large as the file, and a worker holds one file and its successor."""
    _deny(output, "/in/7.jpg")
    denylist = Denylist.load(output)
    rows = "".join(f"/in/{number}.jpg,{'0.5,' * 500}\n" for number in range(4_000))
    data = gzip.compress(f"path,f\n{rows}".encode())
    tracemalloc.start()
    kept = without_forgotten("a.csv.gz", data, denylist)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < len(rows) / 10
    assert kept == without_forgotten("a.csv.gz", data, denylist)
    assert gzip.decompress(kept).decode().count("\n") == 4_000


_DAMAGED = {
    "truncated.csv.gz": gzip.compress(b"path\na\n")[:-12],
    "none.csv.gz": b"path\na\n",
    "wrong.csv.gz": gzip.compress(b"")[:10] + b"\xff" * 20,
    "quotes.csv.gz": gzip.compress(b'path\n"a"b\n'),
    "of another table.parquet": as_parquet(pa.table({"n": [1]})),
    "half a line.json": b'{"path": "a"}\n{"pa',
}


@pytest.mark.parametrize("name", _DAMAGED)
def test_a_damaged_file_is_named(output: Folder, name: str) -> None:
    """Whatever its reader says of it."""

    def look(folder: Folder, file: File) -> None:
        erase_in(folder, file.name, Denylist())

    output.create(name, _DAMAGED[name])
    with pytest.raises(OutputError, match=f"/{name} cannot be read: .* restore it from a copy, .* and forget again"):
        visit(look, output, File("features", output.root, name))


def test_the_holder_takes_nothing_in_and_folds_nothing(output: Folder) -> None:
    """Found, requested, repeated in a manifest, or already in the log."""
    Tables(output).prepare()
    first = manifests.append_manifest(output, PICTURES[:2], NOW)
    manifests.append_manifest(output, PICTURES[1:3], NOW + timedelta(seconds=1))
    requests.create_request(output, PICTURES[3:])
    _deny(output, PATHS[0], PATHS[2], PATHS[3])
    with Tenure(output, LEASE) as tenure:
        log = ManifestLog(tenure, withdraw_repeating(tenure))
        assert log.unknown(PICTURES) == [PICTURES[4]]
        Inbox(log).take_in(10)
        assert log.unknown(PICTURES) == []
        taken = [manifests.read_manifest(output, one) for one in manifests.manifest_ids(output)]
        assert taken == [PICTURES[:2], [PICTURES[4]]]
        known.fold(tenure, [first])
    assert len(KnownPictures(output)) == 2
    [record] = output.names(known.KNOWN_FOLDER)
    assert pq.read_table(pa.BufferReader(output.read(record)))["path"].to_pylist() == [PATHS[1]]


def test_notice_is_taken_once_the_running_write_has_ended(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at with the former denylist is in the output before anybody sweeps it."""
    monkeypatch.setattr(handshake, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(handshake, "_WAIT_SECONDS", 0.01)
    with Lease(output, LEASE) as lease, Notice(output, lease) as held:
        entry = _deny(output, PATHS[0])
        waiting = threading.Event()
        waiter = threading.Thread(
            target=wait_until_noticed, args=(output, entry.id, LEASE, lambda holder: waiting.set())
        )
        with held.hold() as denylist:
            assert not denylist.is_forgotten(PATHS[0])
            waiter.start()
            assert waiting.wait(60)
            waiter.join(0.2)
            assert waiter.is_alive()
            assert not denylist.is_forgotten(PATHS[0])
        waiter.join(60)
        assert not waiter.is_alive()
        with held.hold() as denylist:
            assert denylist.is_forgotten(PATHS[0])
        wait_until_noticed(output, entry.id, LEASE, _must_not_wait)
    wait_until_noticed(output, "another", LEASE, _must_not_wait)


def _must_not_wait(holder: Holder) -> None:
    pytest.fail(f"waits for {holder}")


def test_a_holder_out_of_reach_does_not_come_back(output: Folder) -> None:
    """Its lease ran out, as in an outage, and nobody else took it: it could go on with the denylist that it has."""
    with Lease(output, timedelta(milliseconds=200)) as lease:
        lease._leaving = True
        lease._wake.set()
        lease._renewer.join()
        threading.Event().wait(0.3)
        wait_until_noticed(output, _deny(output, PATHS[0]).id, LEASE)
        with pytest.raises(ConflictError):
            lease.renew()
    with Lease(output, LEASE):
        pass


def test_a_manifest_that_loses_all_is_finished_first(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that Spark, which may have planned it, finds it done; killed in between, too."""
    sink = Tables(output)
    sink.prepare()
    one = manifests.append_manifest(output, PICTURES[:2], NOW)
    other = manifests.append_manifest(output, PICTURES[2:4], NOW)
    _deny(output, *PATHS[:3])
    denylist = Denylist.load(output)
    with monkeypatch.context() as context:
        context.setattr(output, "replace", _die)
        with suppress(KeyboardInterrupt):
            erase_in_manifest(output, manifests.manifest_name(one), denylist)
    assert is_decided(output, one)
    for manifest in (one, other, other):
        erase_in_manifest(output, manifests.manifest_name(manifest), denylist)
    assert manifests.read_manifest(output, one) == []
    assert manifests.read_manifest(output, other) == [PICTURES[3]]
    assert not is_decided(output, other)


def _die(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_request_keeps_the_others(output: Folder) -> None:
    """Under its own id; one of nobody else is dropped."""
    request, dropped = (requests.create_request(output, pictures) for pictures in (PICTURES, PICTURES[:1]))
    _deny(output, PATHS[0])
    for one in (request, dropped, dropped):
        erase_in_request(output, f"{requests.REQUESTS_FOLDER}/{one}.json", Denylist.load(output))
    assert requests.request_ids(output) == [request]
    assert requests.read_request(output, request) == PICTURES[1:]


def test_a_fit_leaves_them_out(source: Path, tmp_path: Path, output: Folder) -> None:
    """And gives up if they came on the denylist while it ran, with all that it wrote."""
    for name in ("a", "b", "c"):
        (source / name).touch()
    _deny(output, str(source / "b"))
    denylist = Denylist.load(output)
    assert [picture.path for picture in choose(str(source), None, AWS_DEFAULTS, denylist)] == [
        str(source / "a"),
        str(source / "c"),
    ]
    paths = [str(source / name) for name in ("a", "b")]
    output.create("20260101T000000Z-00000000/backbone.tflite", b"")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "part").touch()
    with pytest.raises(InputError, match="1 of the pictures had to be forgotten"):
        delete_if_forgotten(
            Draft(output, "20260101T000000Z-00000000", open_folder(str(tmp_path / "saved"))), paths, None
        )
    assert not (tmp_path / "saved").exists()
    assert {name.partition("/")[0] for name in output.names("")} == {"_forgotten"}


@pytest.mark.parametrize("writes", range(6))
def test_a_bundle_is_whole_while_it_is_sealed_again(
    fitted: Path, tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each write, which may be the last of a run that is killed; the next one finishes it, and counts once."""
    models = open_folder(str(tmp_path / "models"))
    for file in fitted.rglob("*"):
        if file.is_file():
            models.create(str(file.relative_to(fitted)), file.read_bytes())
    version = Registry(models).current()
    names = (bundle.IDENTITIES, bundle.REPORT)
    for name in names:
        models.create(f"{version}/{name}", b"old")
    bundle.reseal(models, version, _revised(models, version, names, b"old"), 0)
    assert Registry(models).open(version).file(bundle.IDENTITIES) == b"old"
    left = writes
    replace = models.replace

    def count(name: str, data: bytes, tag: str) -> str:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        following = replace(name, data, tag)
        Registry(models).open(version)
        return following

    with monkeypatch.context() as context:
        context.setattr(models, "replace", count)
        with suppress(KeyboardInterrupt):
            bundle.reseal(models, version, _revised(models, version, names, b"new"), 2)
    Registry(models).open(version)
    bundle.reseal(models, version, _revised(models, version, names, b"new"), 2 if writes == 0 else 0)
    sealed = Registry(models).open(version)
    assert [sealed.file(name) for name in names] == [b"new", b"new"]
    assert sealed.manifest.forgotten == 2


def test_a_reader_in_between_looks_again(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read the manifest before, and a file after the exchange; what is changed by hand is refused still."""
    models = open_folder(str(tmp_path / "models"))
    for file in fitted.rglob("*"):
        if file.is_file():
            models.create(str(file.relative_to(fitted)), file.read_bytes())
    version = Registry(models).current()
    models.create(f"{version}/{bundle.REPORT}", b"old")
    bundle.reseal(models, version, _revised(models, version, [bundle.REPORT], b"old"), 0)
    read, exchanged = models.read, False

    def exchange_first(name: str) -> bytes:
        nonlocal exchanged
        if name.endswith(bundle.REPORT) and not exchanged:
            exchanged = True
            bundle.reseal(models, version, _revised(models, version, [bundle.REPORT], b"new"), 1)
        return read(name)

    monkeypatch.setattr(models, "read", exchange_first)
    assert Registry(models).open(version).file(bundle.REPORT) == b"new"
    models.replace(f"{version}/{bundle.REPORT}", b"by hand", models.read_tagged(f"{version}/{bundle.REPORT}")[1])
    with pytest.raises(BundleError, match=r"report\.html was changed"):
        Registry(models).open(version)


def _revised(models: Folder, version: str, names: Sequence[str], content: bytes) -> dict[str, bundle.Revised]:
    return {name: bundle.Revised(content, models.read_tagged(f"{version}/{name}")[1]) for name in names}
