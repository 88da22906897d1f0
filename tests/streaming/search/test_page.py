"""Pages of what was found: they load nothing, show each picture as it is, and say where they cannot."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from streaming.__main__ import main as stream
from streaming.features.imaging import decode, thumbnail
from streaming.output.manifests import prepare_log
from streaming.storage.folder import Folder
from tests.support.pictures import LIMITS, encoded, fruit
from tests.support.small_table import commit_features

ODD = "<b>&\"'.jpg"


@pytest.fixture
def shown(output: Folder, source: Path, pictures: list[Path]) -> dict[str, Path]:
    """Pictures whose rows are near each other: one that has stayed as it was, and others."""
    prepare_log(output)
    files = {name: source / name for name in ("asked.jpg", ODD, "gone.jpg", "changed.jpg", "damaged.jpg")}
    for file, picture in zip(files.values(), pictures, strict=False):
        shutil.copy(picture, file)
    digests = [sha256(file.read_bytes()).hexdigest() for file in files.values()]
    features = {str(file): [1, 0.001 * number] for number, file in enumerate(files.values())}
    commit_features(output, 0, features, sha256=digests, captured_at=["2026-01-31T10:00:00"] * 5)
    files["gone.jpg"].unlink()
    shutil.copy(pictures[9], files["changed.jpg"])
    files["damaged.jpg"].write_bytes(b"no picture")
    return files


def _page(words: list[str], file: Path) -> str:
    assert stream([*words, "--html", str(file)]) == 0
    page = file.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)|url\(|@import|<script", page)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    return page


def _images(page: str) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(one))) for one in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    ]


@pytest.mark.parametrize("verb", ["similar", "duplicates"])
def test_a_page_shows_what_can_be_shown(verb: str, shown: dict[str, Path], output: Folder, tmp_path: Path) -> None:
    words = (
        [verb, "--table", output.root]
        if verb == "duplicates"
        else [verb, str(shown["asked.jpg"]), "--table", output.root]
    )
    page = _page(words, tmp_path / "page.html")
    assert len(_images(page)) == 3
    assert all(max(image.size) == 224 for image in _images(page))
    assert "it is no longer there" in page
    assert "it cannot be decoded: not_an_image" in page
    assert "it was overwritten since its row was made" in page
    assert ODD not in page
    assert "&lt;b&gt;&amp;" in page
    assert "2026-01-31 10:00:00" in page


@pytest.mark.parametrize("verb", ["similar", "duplicates"])
def test_a_page_is_suggested_until_there_is_one(
    verb: str, shown: dict[str, Path], output: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the same command, as its options decide what the page shows."""
    words = [verb, *([str(shown["asked.jpg"])] if verb == "similar" else []), "--table", output.root]
    assert stream(words) == 0
    assert capsys.readouterr().out.endswith(f"\nnext         the same command with --html {verb}.html\n")
    _page(words, tmp_path / "page.html")
    said = capsys.readouterr().out
    assert "\nnext " not in said
    assert f"\npage         {tmp_path}/page.html\n" in said
    _page([*words, "--json"], tmp_path / "page.html")
    assert json.loads(capsys.readouterr().out)["page"] == str(tmp_path / "page.html")


def test_a_page_without_groups_says_so(output: Folder, tmp_path: Path) -> None:
    prepare_log(output)
    commit_features(output, 0, {"/p/1": [1, 0], "/p/2": [0, 1]})
    assert "No two pictures have the same bytes" in _page(
        ["duplicates", "--table", output.root], tmp_path / "page.html"
    )


def test_a_page_that_cannot_be_written_is_refused_before_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (tmp_path, tmp_path / "none" / "page.html"):
        assert stream(["similar", "a.jpg", "--table", str(tmp_path / "no table"), "--html", str(file)]) == 2
        assert f"--html: {file}" in capsys.readouterr().err


def test_a_thumbnail_is_upright_in_its_proportions_and_without_metadata() -> None:
    image = fruit(96, 48)
    exif = Image.Exif()
    exif[274], exif[271] = 6, f"made {datetime.now(UTC):%Y}"
    lying = decode(encoded(image, "JPEG", exif=exif, quality=95), LIMITS)
    small = Image.open(io.BytesIO(thumbnail(lying, 64)))
    assert small.size == (32, 64)
    assert not small.getexif()
    upright = image.transpose(Image.Transpose.ROTATE_270).resize((32, 64))
    apart = [abs(a - b) for a, b in zip(small.tobytes(), upright.tobytes(), strict=True)]
    assert sum(apart) / len(apart) < 8
