"""The page of a running stream: it shows what the output records, loads nothing, and is exchanged in one step."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest

from conf.errors import StorageError
from conf.pages.file import check_page, write_page
from streaming.__main__ import main
from streaming.features.schema import OUTCOMES
from streaming.lease.denylist import Entry, add_entry, make_salt
from streaming.output.batch_report import BatchReport
from streaming.output.manifests import append_manifest, prepare_log
from streaming.output.tables import Result, Tables
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import open_folder
from tests.support.buckets import Bucket
from tests.support.streams import PROJECT, begin

BEGUN = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _commit(output: Folder, minutes: int, good: Sequence[str], bad: Sequence[str], drift: float | None = None) -> None:
    """A micro-batch so many minutes after the first, in which pictures were accepted and others were cut off."""
    at, paths = BEGUN + timedelta(minutes=minutes), [*good, *bad]
    outcomes = dict.fromkeys(OUTCOMES.names, [None] * len(paths)) | {
        "path": paths,
        "length": [1] * len(paths),
        "modification_time": [at] * len(paths),
        "sha256": [sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else None for path in paths],
        "features": [[1.0, 2.0]] * len(good) + [None] * len(bad),
        "reconstruction_error": [7.0] * len(good) + [None] * len(bad),
        "width": [1] * len(good) + [None] * len(bad),
        "height": [1] * len(good) + [None] * len(bad),
        "reason": [None] * len(good) + ["corrupt"] * len(bad),
        "detail": [None] * len(good) + ["cut <off>"] * len(bad),
    }
    manifest = append_manifest(output, [StoredPicture(path, 1, at) for path in paths], at)
    report = BatchReport(manifest, len(paths), Counter(corrupt=len(bad)), 0.5, 2.5, "20260101T000000Z-1a2b3c4d", drift)
    Tables(output).commit(manifest, Result(pa.table(outcomes, OUTCOMES), "", at, report))


def _page(output: Folder, file: Path, *more: str) -> str:
    assert main(["status", "--output", output.root, "--html", str(file), *more]) == 0
    page = file.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)|url\(|@import|<script", page)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    return page


@pytest.fixture
def streamed(output: Folder, pictures: list[Path], tmp_path: Path) -> Folder:
    """30 real pictures in three micro-batches, one of them gone since, and two that are cut off."""
    begin(output)
    gone = tmp_path / "gone.jpg"
    gone.write_bytes(pictures[0].read_bytes())
    cut = [tmp_path / "cut 1.jpg", tmp_path / "cut 2.jpg"]
    for file in cut:
        file.write_bytes(pictures[0].read_bytes()[:-300])
    _commit(output, 0, [*map(str, pictures[:9]), str(gone)], [str(cut[0])], 0.05)
    _commit(output, 1, [*map(str, pictures[10:20])], [], 0.07)
    _commit(output, 2, [*map(str, pictures[20:22])], [str(cut[1])], 0.31)
    gone.unlink()
    return output


def test_it_shows_figures_over_time_quarantine_and_pictures(
    streamed: Folder, tmp_path: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page = _page(streamed, tmp_path / "page.html")
    assert "22 in features, 2 in quarantine" in capsys.readouterr().out
    assert "22 in features, 2 in quarantine" in page
    assert "3 micro-batches with 24 pictures, from\n31 January 2026, 12:00 UTC to 31 January 2026, 12:02 UTC" in page
    for title in (
        "22.0, 31 January 12:00:02 UTC, model 20260101T000000Z-1a2b3c4d",
        "0.31, 31 January 12:02:02 UTC, model 20260101T000000Z-1a2b3c4d",
        "2.5 s, 31 January 12:01:02 UTC, model 20260101T000000Z-1a2b3c4d",
    ):
        assert f"<title>{title}</title>" in page
    assert page.count("data:image/jpeg") == 22 - 1 + 2
    assert "it is no longer there" in page
    assert page.count("<small>cut &lt;off&gt;</small>") == 2
    assert page.index(str(pictures[21])) < page.index(str(pictures[0]))
    assert len(page) < 300_000


def test_without_thumbnails_it_shows_paths(streamed: Folder, tmp_path: Path, pictures: list[Path]) -> None:
    page = _page(streamed, tmp_path / "page.html", "--no-thumbnails")
    assert "data:image" not in page
    assert "page.html --no-thumbnails</code>" in page  # as whoever renews it wants none either
    assert str(pictures[21]) in page


def test_a_forgotten_picture_is_not_shown(streamed: Folder, tmp_path: Path, pictures: list[Path]) -> None:
    """Also while its row is still there, in features and in quarantine."""
    salt = make_salt(streamed)
    add_entry(streamed, Entry.of([str(pictures[21])], [f"{tmp_path}/cut 2"], salt, BEGUN))
    page = _page(streamed, tmp_path / "page.html")
    assert str(pictures[21]) not in page
    assert "cut 2" not in page
    assert "cut 1" in page
    assert page.count("data:image/jpeg") == 20 + 1


def test_an_output_without_rows_has_a_page(output: Folder, tmp_path: Path) -> None:
    begin(output)
    page = _page(output, tmp_path / "page.html")
    assert "There has been none yet." in page
    assert "There are no rows yet." in page


def test_drift_that_is_not_known_and_one_micro_batch_alone(output: Folder, tmp_path: Path) -> None:
    begin(output)
    _commit(output, 0, [str(tmp_path / "none.jpg")], [])
    page = _page(output, tmp_path / "page.html")
    assert "held back too few pictures to tell" in page
    assert 'd="M300.0 0.0"' in page


def test_where_it_is_stands_in_the_answer_and_in_the_command_that_renews_it(
    output: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In full, as a schedule may run in another folder."""
    prepare_log(output)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["status", "--output", output.root, "--html", "page.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == str(tmp_path / "page.html")
    assert f"--html {tmp_path}/page.html" in (tmp_path / "page.html").read_text()


def test_it_goes_through_a_pipe(tmp_path: Path) -> None:
    """As to /dev/stdout before gzip: nothing can be put in its place."""
    pipe, link = tmp_path / "pipe", tmp_path / "stdout"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    check_page(str(link))
    with ThreadPoolExecutor() as threads:
        read = threads.submit(pipe.read_bytes)
        write_page(str(link), "conf.pages", "base.css")
        assert read.result(60)
    assert sorted(tmp_path.iterdir()) == [pipe, link]


def test_it_is_exchanged_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser, or a copy by a schedule, sees the page before or the new one, and no draft stays."""
    page = tmp_path / "page.html"
    page.write_text("before")
    link = tmp_path / "link.html"
    link.symlink_to(page)
    write_page(str(link), "conf.pages", "base.css")
    assert page.read_text() != "before"
    assert link.is_symlink()
    written = page.read_text()

    def fail(_: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(StorageError, match=f"--html: {page} cannot be written: No space left on device"):
        write_page(str(page), "conf.pages", "base.css")
    assert page.read_text() == written
    assert sorted(tmp_path.iterdir()) == [link, page]


def test_it_is_refused_where_it_would_be_ignored(output: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    begin(output)
    assert main(["status", "--output", output.root, "--check", "--html", "page.html"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err
    assert main(["status", "--output", output.root, "--html", "/nowhere/page.html"]) == 2
    assert main(["status", "--output", output.root, "--no-thumbnails"]) == 2
    capsys.readouterr()
    for beside in ([], ["--watch"], ["--html", "page.html"]):
        assert main(["status", "--output", output.root, "--log-format", "text", "--max-behind", "5min", *beside]) == 2
        assert capsys.readouterr().err == "error: status --max-behind: is about a check; give --check, too\n"


def test_an_output_on_s3_has_a_page(bucket: Bucket, pictures: list[Path], tmp_path: Path) -> None:
    output = open_folder(bucket.uri("out"))
    begin(output)
    _commit(output, 0, bucket.put(pictures[:3]), [])
    assert _page(output, tmp_path / "page.html").count("data:image/jpeg") == 3


_LOADED = """
import runpy, sys
try: runpy.run_module("streaming", run_name="__main__", alter_sys=True)
except SystemExit as end: assert not end.code
print(sorted({"pyspark", "pandas", "tensorflow", "matplotlib", "boto3", "ai_edge_litert"} & {*sys.modules}))
"""


def test_it_loads_neither_spark_nor_matplotlib(output: Folder, pictures: list[Path], tmp_path: Path) -> None:
    begin(output)
    _commit(output, 0, [str(pictures[0])], [])
    words = ["status", "--output", output.root, "--html", str(tmp_path / "page.html")]
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *words], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
