"""What `forget` is told: each path is taken as it stands, and named if nothing has it."""

from __future__ import annotations

import codecs
import json
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pytest

from conf.errors import SettingsError
from streaming.forget.answer import ExplainedReceipt, Forgotten, Search
from streaming.forget.receipts import Ledger, write_receipt
from streaming.forget.wanted import Wanted, read_wanted
from streaming.lease.denylist import Entry
from streaming.storage.folder import Folder

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
NFC, NFD = (unicodedata.normalize(form, "/in/café ü.jpg") for form in ("NFC", "NFD"))
LINES = ["s3a://b/in/1.jpg", "", "/in/日本.jpg", NFD]
KEYS = ["s3://b/in/1.jpg", "/in/日本.jpg", NFD]


def _keys(wanted: Wanted) -> list[str]:
    return [one.key for one in wanted.paths]


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
    ids=["UTF-8", "UTF-8 with mark", "UTF-16 LE", "UTF-16 BE", "UTF-32 LE", "UTF-32 BE"],
)
def test_a_file_is_read_as_its_mark_says(tmp_path: Path, mark: bytes, encoding: str, end: str) -> None:
    """As editors and redirections of Windows write it; the lines count as people count them."""
    file = tmp_path / "list.txt"
    for last in ("", end):
        file.write_bytes(mark + (end.join(LINES) + last).encode(encoding))
        wanted = read_wanted([], [], str(file))
        assert _keys(wanted) == KEYS
        assert [one.where for one in wanted.paths] == ["line 1", "line 3", "line 4"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("/in/a.jpg\n/in/é.jpg\n".encode("cp1252"), "line 2: byte 0xe9 is not UTF-8; .* like Windows-1252; save it"),
        ("/in/a.jpg\n".encode("utf-16-le"), "line 1: holds a NUL; .* UTF-16 LE without its mark"),
        ("/in/日本.jpg\n".encode("utf-16-be"), "line 1: .* UTF-16 BE without its mark"),
        (b"/in/a.jpg\0/in/bb.jpg\0/in/ccc.jpg\0/in/dd.jpg\0", "line 1: holds a NUL; .* a list that NULs separate"),
        ("\ufeff/in/日本.jpg".encode("gb18030"), "line 1: byte 0x84 .* GB18030"),
        (codecs.BOM_UTF16_LE + "/in/a.jpg\n/in".encode("utf-16-le")[:-1], "line 2: .* not UTF-16; .* damaged UTF-16"),
        (b"/in/a.jpg\nhttps://host/in/a.jpg\n", "--from-file: line 2 is not a location"),
    ],
    ids=["code page", "UTF-16", "UTF-16 BE", "find -print0", "GB18030", "cut off", "no location"],
)
def test_a_file_that_cannot_be_read_is_refused_by_line_and_likely_encoding(
    tmp_path: Path, data: bytes, said: str
) -> None:
    """Without a path of it in the message, which goes to the log, too."""
    file = tmp_path / "list.txt"
    file.write_bytes(data)
    with pytest.raises(SettingsError, match=said) as raised:
        read_wanted([], [], str(file))
    assert "/in/" not in str(raised.value)


@pytest.mark.parametrize(
    "path", ["/in/ a.jpg", "/in/a.jpg ", '/in/"a".jpg', "/in/%41.jpg", "/in/a+b.jpg", NFC, NFD, "/in/a\r.jpg", "/s3:/a"]
)
def test_a_path_is_taken_letter_by_letter(tmp_path: Path, path: str) -> None:
    """There are such names."""
    file = tmp_path / "list.txt"
    file.write_text(f"{path}\n", encoding="utf-8", newline="")
    assert _keys(read_wanted([path], [], str(file))) == [path, path]


def test_what_is_no_path_at_all_is_named() -> None:
    for paths, prefixes in (([""], []), ([], [""]), (["https://b/a.jpg"], []), (["/in/\udce9.jpg"], [])):
        with pytest.raises(SettingsError, match="forget: "):
            read_wanted(paths, prefixes, None)


_SPELLINGS = [
    ("\ufeff/in/a.jpg", "/in/a.jpg", "without a byte order mark"),
    ("/in/a.jpg\r", "/in/a.jpg", "without a carriage return"),
    ("  /in/a.jpg\t", "/in/a.jpg", "without blanks"),
    ("\xa0/in/a.jpg", "/in/a.jpg", "without blanks"),
    ('"/in/a.jpg"', "/in/a.jpg", "without quotes"),
    ("'/in/a.jpg'", "/in/a.jpg", "without quotes"),
    ('"/in/a ""b"".jpg"', '/in/a "b".jpg', "without quotes"),
    (' "/in/ a.jpg" ', "/in/ a.jpg", "without blanks, without quotes"),
    (NFC, NFD, "Unicode NFD"),
    (NFD, NFC, "Unicode NFC"),
    ("s3a:/b/in/a.jpg", "s3://b/in/a.jpg", "scheme"),
    ("arn:aws:s3:::b/in/a.jpg", "s3://b/in/a.jpg", "scheme"),
    ("file:///in/a%41.jpg", "/in/a%41.jpg", "as a plain path"),
    ("s3://b/in/caf%C3%A9%20a.jpg", "s3://b/in/café a.jpg", "percent-decoded"),
    ("s3://b/in/caf%C3%A9+a.jpg", "s3://b/in/café a.jpg", "percent-decoded, + as a blank"),
    ("/in/caf%C3%A9.jpg", unicodedata.normalize("NFD", "/in/café.jpg"), "percent-decoded, Unicode NFD"),
]


def _answer(output: Folder, wanted: Wanted, *there: str) -> ExplainedReceipt:
    """What a run says if the output holds these paths."""
    paths, prefixes = ((one.key for one in group) for group in (wanted.paths, wanted.prefixes))
    entry = Entry.of(paths, prefixes, bytes(32), NOW)
    search, ledger = Search(entry, wanted), Ledger.load(output, entry)
    ledger.asked = search.places()
    for path in there:
        ledger.matched.update(search.note(search.watched.hits(path)))
    return search.explain(ledger.receipt(output, entry, NOW))


@pytest.mark.parametrize(("typed", "there", "how"), _SPELLINGS)
def test_the_nearest_spelling_that_exists_is_named(output: Folder, typed: str, there: str, how: str) -> None:
    """Of a path, and of a prefix; without it, only what was asked for."""
    for wanted in (read_wanted([typed], [], None), read_wanted([], [typed], None)):
        [missed] = _answer(output, wanted, there, "/in/other.jpg").missed
        assert (missed.asked, missed.nearest, missed.how) == (typed, there, how)
        [missed] = _answer(output, wanted, "/in/other.jpg").missed
        assert (missed.asked, missed.nearest) == (typed, None)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("s3a://b/in/a.jpg", "s3://b/in/a.jpg"),
        ("S3N://b/in/a.jpg", "s3://b/in/a.jpg"),
        ("file:///in/a%20b.jpg", "/in/a b.jpg"),
        ("file:/in/a.jpg", "/in/a.jpg"),
        ("\ufeffs3a://b/in/a.jpg", "s3://b/in/a.jpg"),
        ('"s3a://b/in/a.jpg"\r', "s3://b/in/a.jpg"),
        (" file:///in/a.jpg", "/in/a.jpg"),
    ],
)
def test_what_can_only_mean_one_thing_is_taken_for_it(output: Folder, typed: str, key: str) -> None:
    wanted = read_wanted([typed], [], None)
    assert _keys(wanted) == [key]
    assert _answer(output, wanted, key).missed == ()


def test_the_answer_names_what_nothing_has_and_the_receipt_no_path(output: Folder, tmp_path: Path) -> None:
    """In the order in which it was given; the receipt tells the line."""
    file = tmp_path / "list.txt"
    file.write_text(f"/in/1.jpg\n{NFC}\n/in/never seen.jpg\n/in/1.jpg \n", encoding="utf-8")
    wanted = read_wanted(["/in/2.jpg"], ["/in/nobody/"], str(file))
    answer = _answer(output, wanted, "/in/1.jpg", NFD)
    text = Forgotten(output.root, dry_run=False, receipts=(answer,)).as_text().splitlines()
    head = text.index("unmatched    5 of 6: nothing has these; they are on the denylist anyway")
    assert text[head + 1 : head + 6] == [
        "             PATH 1: '/in/2.jpg'",
        f"             line 2: {NFC!r}; nearest: {NFD!r} (Unicode NFD)",
        "             line 3: '/in/never seen.jpg'",
        "             line 4: '/in/1.jpg '; nearest: '/in/1.jpg' (without blanks), forgotten, too",
        "             --prefix 1: '/in/nobody/'",
    ]
    assert "they would be on the denylist anyway" in Forgotten(output.root, dry_run=True, receipts=(answer,)).as_text()
    unmatched = json.loads(json.dumps(answer.document()))["unmatched"]
    assert [(one["asked"], one["nearest"]) for one in unmatched][:2] == [("/in/2.jpg", None), (NFC, NFD)]
    written = answer.receipt.model_dump_json()
    assert "/in/" not in written
    assert [one.where for one in answer.receipt.unmatched or ()] == [
        "PATH 1",
        *map("line {}".format, (2, 3, 4)),
        "--prefix 1",
    ]


def test_what_an_earlier_run_has_erased_was_not_missed(output: Folder) -> None:
    """Asked for again, it is there no more; what was missed then and is there now is erased now."""
    wanted = read_wanted(["/in/1.jpg", "/in/2.jpg", "/in/3.jpg"], [], None)
    first = _answer(output, wanted, "/in/1.jpg")
    assert [one.asked for one in first.missed] == ["/in/2.jpg", "/in/3.jpg"]
    write_receipt(output, first.receipt, None)
    second = _answer(output, wanted, "/in/2.jpg")
    assert [one.asked for one in second.missed] == ["/in/3.jpg"]
    write_receipt(
        output, second.receipt.model_copy(update={"unmatched": None}), first.receipt
    )  # as an earlier release leaves it
    assert _answer(output, wanted).document()["unmatched"] is None


def test_two_runs_for_the_same_at_once_lose_no_count(output: Folder) -> None:
    """The other finds nothing any more, or has found the same before."""
    wanted = read_wanted(["/in/1.jpg", "/in/2.jpg"], [], None)
    entry = Entry.of([one.key for one in wanted.paths], [], bytes(32), NOW)
    search = Search(entry, wanted)
    one, late = Ledger.load(output, entry), Ledger.load(output, entry)
    one.add_rows("features", "a", 5)
    one.add_refit("/models", "v", 2)
    one.matched.update(search.note(search.watched.hits("/in/1.jpg")))
    one.save(output, entry)
    late.add_rows("features", "b", 1)
    late.save(output, entry)
    assert Ledger.load(output, entry).rows == {"features": {"a": 5, "b": 1}}
    write_receipt(output, one.receipt(output, entry, NOW), one.earlier)
    empty = Ledger()  # of one that began before, and has looked after
    receipt = write_receipt(output, empty.receipt(output, entry, NOW), empty.earlier)
    assert (receipt.removed, [model.pictures for model in receipt.refit]) == ({"features": 5}, [2])
    assert len(receipt.unmatched or ()) == 1
    again = Ledger.load(output, entry)
    assert again.earlier == receipt
    assert write_receipt(output, again.receipt(output, entry, NOW), again.earlier) == receipt
