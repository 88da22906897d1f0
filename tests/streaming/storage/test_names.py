"""What is a picture by its name: the default patterns, settings of one's own, and one rule for all who list."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batch_fit.sample import choose
from conf.aws.connection import AWS_DEFAULTS
from conf.errors import InputError, SettingsError
from conf.loading import load_settings
from streaming.discovery.by_listing import ListingDiscoverer
from streaming.discovery.left_out import FILE, read_left_out
from streaming.operate.parallel_listing import divide
from streaming.operate.status import read_status
from streaming.output import manifests
from streaming.output.places import Input
from streaming.storage.folder import Folder
from streaming.storage.locations import list_folder, list_pictures
from streaming.storage.names import ALL_NAMES, IGNORED, Names
from tests.support.tenures import new_listing

DEFAULT = Names.of(load_settings({}).stream)
NOT_PICTURES = [
    *(".DS_Store", "._IMG_1.jpg", "Thumbs.db", "THUMBS.DB", "ehthumbs.db", "Desktop.ini", "Icon\r", "_SUCCESS"),
    *("_committed_7", ".part-0.parquet.crc", "IMG.jpg._COPYING_", "input_$folder$", ".nfs0000000004a1b2c300000001"),
    *("IMG.jpg.part", "IMG.JPG.PART", "IMG.jpg.filepart", "IMG.jpg.partial", "IMG.jpg.crdownload", "x.tmp", "IMG.jpg~"),
    *("~$report.jpg", ".~lock.IMG.jpg#", ".syncthing.IMG.jpg.tmp", "~syncthing~IMG.jpg.tmp", ".goutputstream-A1B2C3"),
    *(".fuse_hidden0001", ".in.IMG.jpg.", ".IMG_2.jpg.Xa3kQ1", ".IMG_2.JPEG.a1b2c3", "IMG_4.jpg.6eF2Dd3a"),
    *("IMG_4.tiff.deadbeef", "a/@eaDir/IMG.jpg/SYNOFILE_THUMB_M.jpg", "@EADIR/x.jpg", ".Trash-1000/files/x.jpg"),
    *("lost+found/x.jpg", "a/.Spotlight-V100/b/x.jpg", "$RECYCLE.BIN/S-1/x.jpg", "#recycle/x.jpg", "__MACOSX/x.jpg"),
    *(".IMG_1.HEIC.icloud", "picasa.ini", "IMG.jpg.!ut"),
    *("System Volume Information/x.jpg", "_temporary/0/x.jpg", "IMG.jpg.download/IMG.jpg"),
]
PICTURES = [
    *("_DSC0001.jpg", ".hidden.jpg", "a.jpg", "A.JPG", "no extension", "IMG.jpg.jpg", "cat.part.jpg", "photo.jpg.2024"),
    *("IMG_4.jpg.backup.jpg", "20240101.120000", "IMG.jpg.d/x.jpg", "IMG_4.jpg.20240101", ".IMG_2.jpg.backup"),
    *(".IMG_2.jpg.Backup", ".IMG_2.jpg.120000", "IMG.jpg.Xa3kQ1", "[a]*?.jpg", "tmp/x.jpg", "part", "_SUCCESS.jpg"),
    *("@eaDir", "a@eaDir/x.jpg", "Thumbs.db/x.jpg", "~/x.jpg", ".nfsphoto.jpg", "photo.deadbeef", "x.part/x.jpg"),
    *("a\nb.jpg", "line.tmp\n.jpg", "é/ü.jpg", "$folder$.jpg", "trash/x.jpg", "IMG.tmpl", "depart"),
]


def _put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


@pytest.mark.parametrize("path", NOT_PICTURES)
def test_what_systems_and_copying_programs_leave_is_not_a_picture(path: str) -> None:
    assert not DEFAULT.takes(path)


@pytest.mark.parametrize("path", PICTURES)
def test_what_looks_like_it_is_a_picture(path: str) -> None:
    assert DEFAULT.takes(path)


@pytest.mark.parametrize("wanted", [1, 3, 100])
def test_every_way_of_listing_takes_the_same(tmp_path: Path, wanted: int) -> None:
    """The walk, the shares of reconcile and the rule for keys of S3; an ignored folder is not even opened."""
    for number, path in enumerate([*NOT_PICTURES, *PICTURES]):  # each in a folder of its own, as some exclude others
        _put(tmp_path / str(number), path)
    (tmp_path / "0" / "@eaDir").symlink_to(tmp_path / "1")
    expected = {f"{number}/{path}" for number, path in enumerate(PICTURES, start=len(NOT_PICTURES))}
    left_out: Counter[str] = Counter()

    def skip(path: str, why: str) -> None:
        left_out[why] += 1

    listed = list_pictures(str(tmp_path), skip, names=DEFAULT)
    assert {os.path.relpath(picture.path, tmp_path) for picture in listed} == expected
    assert left_out == {IGNORED: len(NOT_PICTURES) + 1}
    left_out.clear()
    shares = divide(str(tmp_path), wanted, AWS_DEFAULTS, DEFAULT, skip)
    through_shares = [
        os.path.relpath(picture.path, tmp_path)
        for share in shares
        for picture in list_folder(share.folder, skip, AWS_DEFAULTS, DEFAULT, deep=share.deep)
    ]
    assert sorted(through_shares) == sorted(expected)
    assert left_out == {IGNORED: len(NOT_PICTURES) + 1}


def test_only_what_is_included_counts() -> None:
    names = Names.of(load_settings({"stream.include": "*.jpg, *.jpeg"}).stream)
    assert [
        path for path in ("a.jpg", "b.JPEG", "c.png", "d.jpg.txt", "._e.jpg", "@eaDir/f.jpg") if names.takes(path)
    ] == [
        "a.jpg",
        "b.JPEG",
    ]


def test_the_default_can_be_replaced_and_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line, in the environment and in the file."""
    default = load_settings({}).stream.ignore
    assert load_settings({"stream.ignore": "*.xmp,raw/"}).stream.ignore == ("*.xmp", "raw/")
    assert load_settings({"stream.ignore": "default,*.xmp"}).stream.ignore == (*default, "*.xmp")
    assert load_settings({"stream.ignore": ""}).stream.ignore == ()
    monkeypatch.setenv("PICTURE_FEATURES_STREAM__IGNORE", "*.xmp,[a-f]*")
    assert load_settings({}).stream.ignore == ("*.xmp", "[a-f]*")
    monkeypatch.delenv("PICTURE_FEATURES_STREAM__IGNORE")
    file = tmp_path / "settings.yaml"
    file.write_text("stream: {ignore: [default, '*.xmp', 're:a{3,4}'], include: '*.jpg'}\n")
    stream = load_settings({}, file).stream
    assert (stream.ignore, stream.include) == ((*default, "*.xmp", "re:a{3,4}"), ("*.jpg",))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("stream.ignore", "a/b", "'a/b' has a slash inside"),
        ("stream.ignore", "/", "'/' is not a pattern"),
        ("stream.ignore", "re:(", "'re:(' is not a regular expression: missing )"),
        ("stream.ignore", "re:a/", "names of folders are given as NAME/"),
        ("stream.include", "a/", "'a/' names folders; give names of files"),
    ],
)
def test_a_pattern_that_cannot_match_is_refused(key: str, value: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({key: value})
    assert told in str(caught.value)
    assert str(caught.value).startswith(key)


def _listing(source: Path, output: Folder, names: Names) -> ListingDiscoverer:
    return new_listing(Input(str(source), names=names), output)


def _logged(output: Folder) -> Iterator[str]:
    for manifest in manifests.manifest_ids(output):
        yield from (os.path.basename(picture.path) for picture in manifests.read_manifest(output, manifest))


def test_what_is_ignored_is_counted_in_status_and_told_once(
    source: Path, output: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    """However often the stream looks and starts; the count follows what is there."""
    caplog.set_level(logging.INFO)
    manifests.prepare_log(output)
    _put(source, "a.jpg", ".DS_Store", "@eaDir/a.jpg/M.jpg", "b.jpg.part")
    discoverer = _listing(source, output, DEFAULT)
    for _ in range(2):
        discoverer.look(10)
        assert discoverer.left_out.ignored == 3
    assert [*_logged(output)] == ["a.jpg"]
    written = output.read(FILE)
    (source / "b.jpg.part").rename(source / "b.jpg")
    again = _listing(source, output, DEFAULT)
    assert again.has_new()
    assert output.read(FILE) == written
    again.look(10)
    said = [entry.getMessage() for entry in caplog.records if "ignored" in entry.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("ignored by name: 3 files or folders, like '/")
    status = read_status(output, datetime.now(UTC))
    assert status.ignored == 2
    assert "ignored      2 by name" in status.as_text()
    assert json.loads(status.as_json())["ignored"] == 2


def test_what_a_changed_setting_no_longer_ignores_is_found(source: Path, output: Folder) -> None:
    """It is in no manifest; what is ignored from now on and was seen before stays seen."""
    _put(source, "a.jpg", "b.tmp")
    _listing(source, output, DEFAULT).look(10)
    assert _listing(source, output, ALL_NAMES).look(10).found == 1
    assert _listing(source, output, Names(ignore=("*.jpg",))).look(10).found == 0
    assert [*_logged(output)] == ["a.jpg", "b.tmp"]


def test_an_input_of_ignored_names_only_says_so(source: Path, output: Folder) -> None:
    _put(source, ".DS_Store")
    told = r"there are no pictures in this folder; check --input; ignored by name: 1 \(stream"
    with pytest.raises(InputError, match=told):
        _listing(source, output, DEFAULT).has_new()
    with pytest.raises(InputError, match=told):
        choose(str(source), None, AWS_DEFAULTS, names=DEFAULT)


def test_a_fit_takes_no_other_pictures_than_the_stream(source: Path) -> None:
    _put(source, "a.jpg", "._a.jpg", "lost+found/b.jpg")
    assert [os.path.basename(one.path) for one in choose(str(source), None, AWS_DEFAULTS, names=DEFAULT)] == ["a.jpg"]


def test_what_events_add_to_the_count_outlives_a_restart(source: Path, output: Folder) -> None:
    """The input is listed only once then."""
    for _ in range(2):
        _listing(source, output, DEFAULT).left_out.add_ignored(["s3://b/in/_SUCCESS", "s3://b/in/._c.jpg"])
    assert read_left_out(output).ignored == 4


def _start(source: Path, output: Folder) -> None:
    """What a process does that lists the input: ask whether there is work, and look, twice."""
    discoverer = _listing(source, output, DEFAULT)
    discoverer.has_new()
    discoverer.look(10)
    discoverer.look(10)


def test_what_is_left_out_is_told_once_per_entry_and_output(
    source: Path, output: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is restarted; again if it comes back, and in another output."""
    manifests.prepare_log(output)
    _put(source, "a.jpg")
    (source / "loop").symlink_to(source)
    os.mkfifo(source / "pipe")
    for _ in range(3):
        _start(source, output)
    warned = [entry.getMessage() for entry in caplog.records]
    assert warned == [
        f"left out: {str(source / 'loop')!r} is a link to a folder, and these are not followed",
        f"left out: {str(source / 'pipe')!r} is neither a file nor a folder",
    ]
    assert read_status(output, datetime.now(UTC)).left_out == 2
    assert "loop" not in output.read(FILE).decode()  # a path is nobody's business but the tables'
    (source / "pipe").unlink()
    _start(source, output)
    os.mkfifo(source / "pipe")
    _start(source, output)
    assert len(caplog.records) == 3


def test_what_is_remembered_of_left_out_entries_is_bounded(
    source: Path, output: Folder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of a million links does not fill log or file; a file that is not ours is replaced."""
    monkeypatch.setattr("streaming.discovery.left_out._MOST_TOLD", 5)
    output.create(FILE, b'{"told": 7}')
    _put(source, "a.jpg")
    for number in range(9):
        (source / f"loop{number}").symlink_to(source)
    for _ in range(3):
        _start(source, output)
    assert len(caplog.records) == 6
    assert caplog.records[-1].getMessage() == "left out: more than 5 entries; the others are not named"
    record_of_it = read_left_out(output)
    assert (len(record_of_it.told), record_of_it.unusable) == (6, 9)


def test_a_record_that_cannot_be_written_stops_nothing(source: Path, output: Folder) -> None:
    """It is advice: discovery goes on, and writes it as soon as it can."""
    _put(source, "a.jpg", ".DS_Store")
    discoverer = _listing(source, output, DEFAULT)
    output.create(FILE, b"{}")  # another has written it meanwhile
    assert discoverer.look(10).found == 1
    assert output.read(FILE) == b"{}"
    discoverer.look(10)
    assert read_left_out(output).ignored == 1
