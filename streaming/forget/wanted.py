"""Reads the paths and prefixes to forget from a command line and a text file, and gives their other spellings.

A path is taken literally: it may begin with a blank, or hold a quote or `%41`. Additions and encodings by programs and
people (a byte order mark, blanks, CSV quotes, percent-encoding, another Unicode form) are therefore not removed; they
give other spellings, which `forget` looks for but never erases, so that it can name the one that exists. They are
removed only from a text that is not a location with them.
"""

from __future__ import annotations

import codecs
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import unquote, unquote_plus

from conf.errors import SettingsError
from streaming.storage.locations import resolve_key

_BOM = "\ufeff"
_ENCODINGS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_QUOTED = re.compile(r"""\s*(["'])(.*)\1\s*""", re.DOTALL)
_S3 = re.compile(r"(?:s3[an]?:/+|arn:aws[a-z-]*:s3:::)(?=[^/])", re.IGNORECASE)  # Java's Path makes one slash of two
_FILE = re.compile(r"file:(?://(?:localhost)?)?(?=/)", re.IGNORECASE)
_NO_LOCATION = "is not a location that can be used; give a local path, a file:// URI or an s3a:// URI"


@dataclass(frozen=True)
class Spelling:
    """Another spelling of a path or prefix: its raw key, and how it differs from the text as given."""

    key: str
    how: str


@dataclass(frozen=True)
class Asked:
    """A requested path or prefix.

    Attributes:
        key: the raw key, or prefix of raw keys.
        text: the text as given.
        where: its place in the request, like `line 17`.
    """

    key: str
    text: str
    where: str

    def spellings(self) -> Iterator[Spelling]:
        """Other spellings that may be meant, the nearest first."""
        seen = {self.key}
        for text, how in _spellings(self.text):
            key = _resolve(text)
            if key is not None and key not in seen:
                seen.add(key)
                yield Spelling(key, how)


@dataclass(frozen=True)
class Wanted:
    """The pictures to forget: by their paths, and by prefixes of paths."""

    paths: Sequence[Asked] = ()
    prefixes: Sequence[Asked] = ()

    def __bool__(self) -> bool:
        return bool(self.paths or self.prefixes)


def read_wanted(paths: Sequence[str], prefixes: Sequence[str], file: str | None) -> Wanted:
    """Read a request from a command line, and from a file with one path a line; `-` is standard input.

    Raises:
        SettingsError: the file cannot be read, or a path or prefix is not a location.
    """
    if any(not one for one in (*paths, *prefixes)):
        raise SettingsError("forget: a PATH or a --prefix is empty, and would stand for all pictures; name one")
    lines = _lines(file) if file is not None else ()
    return Wanted(
        [
            *(_asked(path, f"PATH {number}", repr(path)) for number, path in enumerate(paths, start=1)),
            # Errors name the line only: they are logged, and a file is used to keep its paths out of logs.
            *(_asked(line, f"line {number}", f"--from-file: line {number}") for number, line in lines),
        ],
        [_asked(prefix, f"--prefix {number}", repr(prefix)) for number, prefix in enumerate(prefixes, start=1)],
    )


def _asked(text: str, where: str, shown: str) -> Asked:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"forget: {where} is not UTF-8, and no table holds such a path; check it") from None
    key = _resolve(text)
    if key is None:  # it cannot be a raw key either: a byte order mark or quotes may be around a URI
        key = next((key for other, _ in _spellings(text) if (key := _resolve(other)) is not None), None)
    if key is None:
        raise SettingsError(f"forget: {shown} {_NO_LOCATION}")
    return Asked(key, text, where)


def _resolve(text: str) -> str | None:
    """The raw key; None if the text is not a location."""
    try:
        return resolve_key(text) if text else None
    except (SettingsError, ValueError):  # urllib refuses some brackets
        return None


def _lines(file: str) -> Iterable[tuple[int, str]]:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise SettingsError(f"--from-file: {file} cannot be read: {error.strerror}; give a text file") from error
    lines = (line.removesuffix("\r") for line in _decode(data, file).split("\n"))
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip(f"{_BOM} \t\r")]


def _decode(data: bytes, file: str) -> str:
    """The text of a file in UTF-8, or in another encoding of Unicode that its byte order mark names.

    Raises:
        SettingsError: it is in another encoding; the message names the likely one.
    """
    encoding = next((name for mark, name in _ENCODINGS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "ignore")
        likely = _likely(data) if encoding == "utf-8" else f"damaged {encoding.upper()}"
        raise SettingsError(
            f"--from-file: {file}, line {before.count(chr(10)) + 1}: byte 0x{data[error.start]:02x} is not "
            f"{encoding.removesuffix('-sig').upper()}; the file seems to be {likely}; save it as UTF-8"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise SettingsError(
            f"--from-file: {file}, line {line}: holds a NUL; the file seems to be {_likely(data)}; "
            "save it as UTF-8, with one path a line"
        )
    return text


def _likely(data: bytes) -> str:
    if data.startswith(b"\x84\x31\x95\x33"):
        return "GB18030"
    if b"\0" in data:
        even, odd = data[::2].count(0), data[1::2].count(0)
        mixed = min(even, odd) * 4 > max(even, odd)
        return "a list that NULs separate" if mixed else f"UTF-16 {'LE' if odd > even else 'BE'} without its mark"
    return "in a code page of Windows (ANSI), like Windows-1252"


def _spellings(text: str) -> Iterator[tuple[str, str]]:
    """Other texts that may be meant, the nearest first, each with the steps that lead to it."""
    bare = [(text, ()), *_stripped(text)]
    located = [*bare, *_changed(bare, _as_s3, "scheme"), *_changed(bare, _as_file, "as a plain path")]
    decoded = [
        *located,
        *_changed(located, unquote, "percent-decoded"),
        *_changed(located, unquote_plus, "percent-decoded, + as a blank"),
    ]
    forms = (_changed(decoded, _normal(form), name) for form, name in (("NFC", "Unicode NFC"), ("NFD", "Unicode NFD")))
    for spelling, steps in chain(decoded, *forms):
        if spelling != text:
            yield spelling, ", ".join(steps)


_Steps = tuple[str, ...]


def _stripped(text: str) -> Iterator[tuple[str, _Steps]]:
    """The text without byte order mark, blanks and quotes, removed one after another, with the steps so far."""
    steps: _Steps = ()
    if text.endswith("\r"):
        steps = ("without a carriage return",)
        text = text.rstrip("\r")
        yield text, steps
    while True:
        for shorter, step in (
            (text.removeprefix(_BOM), "without a byte order mark"),
            (text.strip(), "without blanks"),
            (_unquoted(text), "without quotes"),
        ):
            if shorter != text:
                text, steps = shorter, (*steps, step)
                yield text, steps
                break
        else:
            return


def _unquoted(text: str) -> str:
    match = _QUOTED.fullmatch(text)
    return match[2].replace(match[1] * 2, match[1]) if match else text


def _changed(texts: Iterable[tuple[str, _Steps]], change: Callable[[str], str], step: str) -> list[tuple[str, _Steps]]:
    return [(changed, (*steps, step)) for text, steps in texts if (changed := change(text)) != text]


def _as_s3(text: str) -> str:
    return _S3.sub("s3://", text, count=1) if _S3.match(text) else text


def _as_file(text: str) -> str:
    match = _FILE.match(text)
    return text[match.end() :] if match else text


def _normal(form: str) -> Callable[[str], str]:
    def normalize(text: str) -> str:
        return unicodedata.normalize(form, text)  # type: ignore[arg-type]

    return normalize
