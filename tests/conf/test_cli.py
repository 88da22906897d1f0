"""Command lines: what help shows, and what is said of a word that is not known."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from batch_fit.__main__ import VERBS as FIT_VERBS
from batch_fit.__main__ import main as fit
from conf.cli import Flag, Verb, make_parser
from conf.command import PROGRAMS
from conf.command import main as both
from conf.emr.__main__ import main as emr
from streaming.__main__ import VERBS as STREAM_VERBS
from streaming.__main__ import main as stream
from streaming.storage.folder import Folder
from tests.support.streams import begin

Main = Callable[[Sequence[str]], int]
EMR_VERBS = ("package", "deploy", "try", "submit", "status", "logs", "ui", "stop", "destroy", "cost")
COMMAND_LINES: list[tuple[Main, str]] = [
    *((both, verb) for verbs in PROGRAMS.values() for verb in ("", *verbs)),
    *((stream, verb) for verb in ("", *PROGRAMS["streaming"])),
    *((fit, verb) for verb in ("", *PROGRAMS["batch_fit"])),
    *((emr, verb) for verb in ("", *EMR_VERBS)),
]


def help_of(main: Main, verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="0"):
        main([*verb.split(), "--help"])
    return capsys.readouterr().out


def help_of_a_verb(description: str, capsys: pytest.CaptureFixture[str], *flags: Flag) -> str:
    verb = Verb("bake", "Bake.", description, flags, (), lambda *_: None)
    parser = make_parser("bakery", "A bakery.", [verb], epilog="")
    return help_of(lambda words: len(vars(parser.parse_args(words))), "bake", capsys)


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize(("main", "verb"), COMMAND_LINES)
def test_help_fits_a_terminal(main: Main, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line for line in help_of(main, verb, capsys).splitlines() if len(line) > 80] == []


def test_a_list_in_a_description_stays_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    text = f"Bake\none cake.\n\nlist   {'cake ' * 20}\n       and pie\nretry  again"
    cakes = f"list   {'cake ' * 13}cake\n       {'cake ' * 6}and pie\nretry  again\n\n"
    assert f"\n\nBake one cake.\n\n{cakes}" in help_of_a_verb(text, capsys)


def test_help_shows_the_choices_of_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where other values are made of them, and where there may be none; else what the flag says."""
    shown = help_of_a_verb("", capsys, Flag("fit.promote"), Flag("fit.side"), Flag("fit.holdout"), Flag("fit.k", "N"))
    for flag in ("promote {always,if-not-worse,never}", "side {224,192,160}", "holdout {picture,folder,prefix}", "k N"):
        assert f"\n  --{flag}" in shown
    assert "--log-format {auto,text,json}" in shown


@pytest.mark.parametrize("flag", [flag for verb in (*STREAM_VERBS, *FIT_VERBS) for flag in verb.flags])
def test_a_value_has_a_name_in_help(flag: Flag, capsys: pytest.CaptureFixture[str]) -> None:
    """Its choices or one that is given, but not both, as one of them would be lost."""
    bare = help_of_a_verb("", capsys, Flag(flag.key, name=flag.name)).split("general options")[0]
    has_choices = "{" in bare or "--no-" in bare
    assert has_choices != bool(flag.metavar)


@pytest.mark.parametrize(
    ("main", "words", "told"),
    [
        (both, "repaly", "'repaly' (choose from *; is replay meant? See picture-features --help"),
        (stream, "statsu", "; is status meant? See python -m streaming --help"),
        (emr, "depploy", "; is deploy meant? See python -m conf.emr --help"),
        (stream, "dance", "); see python -m streaming --help"),
        (both, "replay --outptu=x", "--outptu=x; is --output meant? See picture-features replay --help"),
        (fit, "fit --hold-out folder", "--hold-out folder; is --holdout meant? See python -m batch_fit fit --help"),
        (stream, "run --inptu a --outptu b", "; are --input and --output meant? See python -m streaming run --help"),
        (stream, "run --xyz", ": --xyz; see python -m streaming run --help"),
        (stream, "run more", ": more; see python -m streaming run --help"),
        (fit, "models lst", "; is list meant? See python -m batch_fit models --help"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest_one(
    main: Any, words: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, which names the help that lists what is possible."""
    monkeypatch.setenv("PICTURE_FEATURES_LOG__FORMAT", "text")
    assert main(words.split()) == 2
    [line] = capsys.readouterr().err.splitlines()
    begin, _, end = told.rpartition("*")
    assert begin in line
    assert line.endswith(end)


def test_a_flag_is_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    """--model, which `similar` has, would be --models of `replay`, in the place of the one that was given."""
    assert stream(["replay", "--models", "registry", "--model", "20260131T235959Z-1a2b3c4d"]) == 2
    assert "unrecognized arguments: --model 20260131T235959Z-1a2b3c4d; is --models meant?" in capsys.readouterr().err


def test_an_answer_that_nothing_takes_is_told_as_a_full_disk(
    output: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    begin(output)
    monkeypatch.setattr(sys, "stdout", Full())
    assert stream(["status", "--output", output.root, "--json"]) == 6
    assert "it is done, but stdout cannot take the answer: No space left on device" in capsys.readouterr().err
