"""Thumbnails are made in bounded time, of whatever there is."""

from __future__ import annotations

import base64
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conf.loading import load_settings
from streaming.features.imaging import Picture, Rejected, decode, decode_damaged
from streaming.features.thumbnails import thumbnails
from tests.support.buckets import Bucket
from tests.support.pictures import LIMITS, encoded, fruit

SETTINGS = load_settings({})


def _shown(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_each_picture_has_one_or_a_reason(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("100%25 é.jpg", "cut.jpg", "empty.jpg", "gone.jpg", "folder.jpg")}
    data = encoded(fruit(400, 200), "JPEG")
    files["100%25 é.jpg"].write_bytes(data)
    files["cut.jpg"].write_bytes(data[: len(data) // 2])
    files["empty.jpg"].touch()
    files["folder.jpg"].mkdir()
    made = thumbnails(SETTINGS, ((str(file), None) for file in files.values()), 96)
    notes = {name: made[str(file)].note for name, file in files.items()}
    assert notes == {
        "100%25 é.jpg": "",
        "cut.jpg": "it is damaged: this much of it decodes",
        "empty.jpg": "it cannot be decoded: empty",
        "gone.jpg": "it is no longer there",
        "folder.jpg": "it is no longer there",
    }
    assert {name for name, file in files.items() if made[str(file)].uri} == {"100%25 é.jpg", "cut.jpg"}
    assert {_shown(one.uri).size for one in made.values() if one.uri} == {(96, 48)}


def test_a_picture_that_is_too_large_is_not_decoded(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(encoded(fruit(64), "PNG"))
    settings = load_settings({"imaging.max_pixels": "1000"})
    assert thumbnails(settings, [(str(file), None)])[str(file)].note == "it cannot be decoded: too_many_pixels"


def test_a_read_that_hangs_keeps_no_other_picture_and_not_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file server that is gone; no test can make a local file hang."""
    file, hung = tmp_path / "a.jpg", tmp_path / "hung.jpg"
    file.write_bytes(encoded(fruit(), "JPEG"))
    back = threading.Event()

    def read(path: str, *_: object) -> bytes:
        if path == str(hung):
            back.wait()
        return file.read_bytes()

    monkeypatch.setattr("streaming.features.thumbnails.read_picture", read)
    begun = time.monotonic()
    made = thumbnails(SETTINGS, [(str(hung), None), (str(file), None)], seconds=3)
    assert time.monotonic() - begun < 60
    assert made[str(file)].uri
    assert made[str(hung)].note == "it could not be read in time"
    back.set()
    for thread in threading.enumerate():  # or it would go on with what the next test has put in place
        if thread.name == "thumbnails":
            thread.join(60)


def test_few_pictures_are_decoded_at_once_though_many_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As each decoded picture takes memory."""
    data, reading, pair = encoded(fruit(), "JPEG"), threading.Barrier(16), threading.Barrier(2)
    counting, decoding, most = threading.Lock(), [0], [0]

    def read(*_: object) -> bytes:
        reading.wait(timeout=30)  # until 16 are here
        return data

    def counted(*arguments: Any) -> Picture:
        with counting:
            decoding[0] += 1
            most[0] = max(most[0], decoding[0])
        try:
            pair.wait(timeout=30)  # two are; a third would be while they decode
            return decode(*arguments)
        finally:
            with counting:
                decoding[0] -= 1

    monkeypatch.setattr("streaming.features.thumbnails.read_picture", read)
    monkeypatch.setattr("streaming.features.thumbnails.decode", counted)
    made = thumbnails(SETTINGS, ((f"s3://bucket/{name}.jpg", None) for name in range(16)), 96)
    assert all(one.uri for one in made.values())
    assert most == [2]


def test_a_failure_that_nobody_has_foreseen_is_of_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is told at once, where a thread that ended would have the caller wait to the end."""
    file = tmp_path / "a.jpg"
    file.write_bytes(encoded(fruit(), "JPEG"))

    def read(path: str, *_: object) -> bytes:
        if path != str(file):
            raise ZeroDivisionError
        return file.read_bytes()

    monkeypatch.setattr("streaming.features.thumbnails.read_picture", read)
    odd = [f"{tmp_path}/odd-{number}.jpg" for number in range(4)]
    begun = time.monotonic()
    made = thumbnails(SETTINGS, [(path, None) for path in (*odd, str(file))], seconds=60)
    assert time.monotonic() - begun < 30
    assert {made[path].note for path in odd} == {"it cannot be read"}
    assert made[str(file)].uri


def test_as_much_as_there_is_of_a_jpeg_is_drawn() -> None:
    """The upper part is that of the whole picture; other formats, and what is no picture, stay rejected."""
    whole = encoded(fruit(320), "JPEG")
    cut, full = decode_damaged(whole[: len(whole) * 3 // 4], LIMITS), decode_damaged(whole, LIMITS)
    assert abs(cut.pixels[:50] - full.pixels[:50]).max() < 0.05
    for data in (encoded(fruit(), "PNG")[:-100], b"\xff\xd8", b"nothing"):
        with pytest.raises(Rejected):
            decode_damaged(data, LIMITS)


def test_pictures_on_s3_have_thumbnails(bucket: Bucket, pictures: list[Path]) -> None:
    paths = [*bucket.put(pictures[:3]), f"s3://{bucket.name}/input/gone.jpg"]
    made = thumbnails(SETTINGS, ((path, None) for path in paths), 96)
    assert [bool(made[path].uri) for path in paths] == [True, True, True, False]
