"""An output says of which format it is: a version that cannot read it leaves it alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from conf import __version__
from conf.aws.connection import AWS_DEFAULTS
from conf.errors import OutputError, StorageError
from conf.loading import load_settings
from streaming.__main__ import main
from streaming.engine.job import open_job
from streaming.output.format_number import FORMAT, NAME, begin_format, check_format
from streaming.output.places import open_output
from streaming.registry.registry import CURRENT, Current
from streaming.storage.folder import Folder
from streaming.storage.local_folder import LocalFolder
from streaming.storage.locations import open_folder
from streaming.storage.s3 import S3Folder
from tests.support.buckets import Bucket
from tests.support.streams import begin
from tests.support.trap import WHENS, Killed, TrapFolder, When

VERBS = {
    "run": ("--input", "--models"),
    "replay": ("--input", "--models"),
    "reconcile": ("--input",),
    "quarantine list": (),
    "quarantine retry": (),
    "status": (),
    "status --check": (),
    "export": ("--to",),
    "export --dry-run": ("--to",),
    "forget a.jpg": (),
    "forget --dry-run a.jpg": (),
    "stop": (),
}
"""Every verb that opens an output, and the places that it wants beside."""


@pytest.fixture
def places(tmp_path: Path, source: Path) -> dict[str, str]:
    """A picture, a registry that has a current model by name, and a folder for exports."""
    (source / "a.jpg").write_bytes(b"not looked at")
    current = Current(version="20260131T000000Z-00000000", promoted_at=datetime.now(UTC))
    open_folder(str(tmp_path / "models")).create(CURRENT, current.model_dump_json().encode())
    return {"--input": str(source), "--models": str(tmp_path / "models"), "--to": str(tmp_path / "exports")}


def _arguments(verb: str, output: Folder, places: dict[str, str]) -> list[str]:
    beside = (word for flag in VERBS[verb] for word in (flag, places[flag]))
    return [*verb.split(), *beside, "--output", output.root, "--log-format", "text"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_an_output_of_a_later_format(
    verb: str, output: Folder, places: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, without Spark, and with nothing written."""
    output.create(NAME, b'{"format": 3, "written by": "a later version"}')
    assert main(_arguments(verb, output, places)) == 5
    assert capsys.readouterr().err == (
        f"error: {output.root} has format 3, and picture-features {__version__} reads formats up to 2; "
        "use the version that wrote it or a later one, or choose another output\n"
    )
    assert list(output.names("")) == [NAME]


@pytest.mark.parametrize("data", [b"", b"1", b"{}", b'{"format": 0}', b'{"format": "1"}', b'{"format": 1.5}'])
def test_a_number_that_was_changed_is_refused_by_name(output: Folder, data: bytes) -> None:
    output.create(NAME, data)
    for look in (check_format, begin_format):
        with pytest.raises(OutputError, match=rf"{NAME} cannot be read: .*; if it was changed by hand, restore it"):
            look(output)


def test_an_output_from_before_there_were_numbers_is_read(output: Folder) -> None:
    begin(output)
    assert not output.exists(NAME)
    assert open_output(load_settings({"output": output.root}), AWS_DEFAULTS).root == output.root
    assert main(["status", "--output", output.root, "--json"]) == 0
    assert main(["stop", "--output", output.root]) == 0


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are created, in order."""
    names: list[str] = []
    create: Callable[[LocalFolder, str, bytes], str] = LocalFolder.create

    def note(folder: LocalFolder, name: str, data: bytes) -> str:
        names.append(name)
        return create(folder, name, data)

    monkeypatch.setattr(LocalFolder, "create", note)
    return names


def test_a_start_writes_the_number_once_and_before_anything_but_the_lease(
    output: Folder, places: dict[str, str], created: list[str]
) -> None:
    """Also into an output of an earlier format, or from before there were numbers."""
    settings = load_settings({"input": places["--input"], "models": places["--models"], "output": output.root})
    with open_job(settings, lambda report: None):
        assert created[:2] == ["_lease", NAME]
    with open_job(settings, lambda report: None):
        assert created.count(NAME) == 1
    for earlier in (b'{"format":1}', None):
        output.delete(NAME)
        if earlier:
            output.create(NAME, earlier)
        with open_job(settings, lambda report: None):
            assert output.read(NAME) == b'{"format":2}\n'


@pytest.mark.parametrize("ignored", ["IfNoneMatch", "IfMatch"])
@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_a_store_that_takes_each_write_is_refused_by_the_first_start(
    bucket: Bucket, ignored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some that speak the protocol of S3 ignore the conditions of a write."""
    put = S3Folder._put

    def overwrite(folder: S3Folder, name: str, data: bytes, **condition: str) -> str:
        return put(folder, name, data, **{key: value for key, value in condition.items() if key != ignored})

    output = open_folder(bucket.uri("sound"))
    begin_format(output)
    assert output.read(NAME) == b'{"format":2}\n'
    monkeypatch.setattr(S3Folder, "_put", overwrite)
    output = open_folder(bucket.uri("output"))
    for _ in range(2):
        with pytest.raises(StorageError, match="ignores the conditions If-None-Match and If-Match of a write"):
            begin_format(output)
    monkeypatch.undo()
    begin_format(output)
    assert list(output.names("")) == [NAME]


def test_an_output_of_an_earlier_format_is_read_as_it_is(output: Folder) -> None:
    output.create(NAME, b'{"format":1}')
    check_format(output)
    assert output.read(NAME) == b'{"format":1}'


@pytest.mark.parametrize("when", WHENS)
def test_a_kill_while_the_number_is_written_leaves_it_or_nothing(output: Folder, when: When) -> None:
    """Whoever starts next goes on, and so does another start that came in between."""
    trap = TrapFolder(output, 1, when, lambda: begin_format(output))
    try:
        begin_format(trap)
    except Killed:
        assert when not in ("paused before", "paused after")
    assert trap.left == 0
    begin_format(output)
    assert list(output.names("")) == [NAME]


def test_of_two_versions_that_begin_an_output_at_once_one_is_refused(output: Folder) -> None:
    def begin_later() -> None:
        output.create(NAME, f'{{"format": {FORMAT + 1}}}'.encode())

    trap = TrapFolder(output, 1, "paused before", begin_later)
    with pytest.raises(OutputError, match=f"has format {FORMAT + 1}"):
        begin_format(trap)
