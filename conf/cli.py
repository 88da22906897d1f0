"""The shared part of both programs' command lines: flags made from settings, one-line errors, exit codes, signals."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from conf import __version__, interrupts
from conf.answers import Answer, write_out
from conf.backoff import pauses
from conf.errors import AppError, SettingsError, StorageError, TransientError
from conf.loading import load_settings, variable_of
from conf.logs import Log, is_text, logging_to, write_last
from conf.settings import ENV_PREFIX, Settings, field_of
from conf.uris import resolve
from conf.utf8 import use_utf8
from conf.yaml_file import list_of_settings

_logger = logging.getLogger(__name__)

LOG_KEYS = ("log.level", "log.format", "log.folder")
COMMON_KEYS = ("spark.master", *LOG_KEYS)

EXIT_CODES = (
    "exit codes  0 done, 1 unexpected failure, 2 wrong option or setting, 3 input, 4 model, 5 output, "
    "6 storage refused (permission, full disk), 7 platform (Java, packages), 8 status --check: not healthy, "
    "130 ended by a signal"
)
EPILOG = f"""\
Options that are settings are also keys of the YAML file of --config ({list_of_settings()} lists all), and environment
variables ({ENV_PREFIX}INPUT, {ENV_PREFIX}STREAM__INTERVAL, ...). Flags win over the environment, which wins over the
file.

{EXIT_CODES}"""


@dataclass(frozen=True)
class Flag:
    """A command-line flag for a setting; its help is the setting's description.

    Attributes:
        key: dotted key of the setting.
        name: the flag; by default the last part of the key.
        metavar: how help names the value. A switch, which --no-... turns off, has none, and help shows the choices
            of a setting that has a fixed set of values.
    """

    key: str
    metavar: str = ""
    name: str = ""

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare the flag. A flag that is not given leaves no trace, so that the next source decides."""
        field = field_of(self.key)
        stem = self.name or _stem(self.key)
        text = (field.description or "").replace("%", "%%")
        default = "" if field.default is None or "efault" in text else f" Default: {_shown(field.default)}."
        if field.annotation in (bool, bool | None):
            either = argparse.BooleanOptionalAction
            parser.add_argument(f"--{stem}", dest=self.key, action=either, default=argparse.SUPPRESS, help=text)
        else:
            choices = _choices(field.annotation)
            metavar = f"{{{','.join(choices)}}}" if choices else self.metavar
            parser.add_argument(
                f"--{stem}", dest=self.key, metavar=metavar, default=argparse.SUPPRESS, help=text + default
            )


def _choices(kind: Any) -> list[str]:
    """The values of a setting of this type, where they are a fixed set, in whatever the Literal is wrapped."""
    if get_origin(kind) is Literal:
        return [*map(str, get_args(kind))]
    return next((found for inner in get_args(kind) if (found := _choices(inner))), [])


def _stem(key: str) -> str:
    return key.rpartition(".")[2].replace("_", "-")


def _shown(value: Any) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    return re.sub(r"\.0(?=\D|$)", "", value.human_readable()) if hasattr(value, "human_readable") else str(value)


@dataclass(frozen=True)
class Verb:
    """A verb of a program.

    Attributes:
        name: as typed.
        summary: one line for the list of verbs.
        description: what it does, for its own help.
        flags: the settings that it uses.
        required: dotted keys of settings that must have a value.
        run: called with the settings and what `options` returns; returns what to print on stdout, if anything.
        arguments: declares the arguments that are not settings.
        options: makes of these what `run` gets. It is called once, also where the verb is retried.
        positional: how help shows the positional arguments.
        json: whether --json prints the answer for programs, which must not be a str then.
        waits: whether the verb is retried while the store fails, which must harm nothing.
        drains: whether a signal asks it to end in order, which is exit code 0.
    """

    name: str
    summary: str
    description: str
    flags: Sequence[Flag]
    required: Sequence[str]
    run: Callable[[Settings, Any], Answer | str | None]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    options: Callable[[argparse.Namespace], Any] = lambda arguments: arguments
    positional: str = ""
    json: bool = False
    waits: bool = False
    drains: bool = False

    @property
    def usage(self) -> str:
        """The obligatory part of a command line: the positional arguments and the required flags."""
        return " ".join((self.positional, *(f"--{_stem(key)} URI" for key in self.required))).strip()


def count(value: str) -> int:
    """An argument that is a number from 1 on."""
    if not value.isdecimal() or not int(value):
        raise argparse.ArgumentTypeError(f"{value!r} is not a number from 1 on")
    return int(value)


class _Help(argparse.HelpFormatter):
    """Fills all texts to the width of the terminal.

    A line like `term  text`, with two spaces or more, is an item of a list. Indented lines below it belong to it.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = (re.split(r"\n(?=.*\S {2,}\S)", block) for block in text.split("\n\n"))
        return "\n\n".join("\n".join(_fill_item(item, width, indent) for item in items) for items in blocks)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _fill(text, width).splitlines()

    def _format_usage(self, usage: str | None, *more: Any) -> str:
        return super()._format_usage(usage, *more) if usage is None else f"{_fill(usage, self._width, 'usage: ')}\n\n"


def _fill_item(item: str, width: int, indent: str) -> str:
    term = item[: match.end()] if (match := re.match(r"\S.*? {2,}", item)) else ""
    return _fill(item[len(term) :], width, indent + term)


def _fill(text: str, width: int, before: str = "") -> str:
    """Lines of words, the first one after `before` and the others below it."""
    below = " " * len(before)
    return textwrap.fill(
        " ".join(text.split()), width, initial_indent=before, subsequent_indent=below, break_on_hyphens=False
    )


class _Parser(argparse.ArgumentParser):
    """Answers a wrong command line in one line, as every other error is answered, with what may have been meant."""

    def error(self, message: str) -> NoReturn:
        then = " See" if message.endswith("?") else "; see"
        raise SettingsError(f"{message}{then} {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            raise argparse.ArgumentError(action, error.message + _meant([str(value)], action.choices or ())) from None


class _VerbParser(_Parser):
    """Answers a wrong flag of a verb itself, so that the answer names the help of the verb."""

    def parse_known_args(self, *words: Any) -> tuple[Any, list[str]]:  # type: ignore[override] # as argparse calls it
        namespace, unknown = super().parse_known_args(*words)
        if unknown:
            flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(flags, self._option_string_actions)}")
        return namespace, unknown


def _meant(words: Iterable[str], possible: Iterable[str]) -> str:
    """A suggestion for words that are not possible; empty where nothing is near."""
    known = [*map(str, possible)]
    near = [match for word in words for match in get_close_matches(word, known, n=1)]
    return f"; {'is' if len(near) == 1 else 'are'} {' and '.join(near)} meant?" if near else ""


def make_parser(
    command: str,
    description: str,
    verbs: Sequence[Verb],
    epilog: str = EPILOG,
    common: Sequence[str] = COMMON_KEYS,
) -> argparse.ArgumentParser:
    """The parser of a program with its verbs.

    Args:
        command: what is typed to start it, like `python -m streaming`.
        description: one line for its help.
        verbs: what it does.
        epilog: what stands below each help.
        common: keys of settings that each verb takes.
    """
    # No abbreviations: --model, which another verb has, would be taken for --models.
    parser = _Parser(prog=command, description=description, epilog=epilog, formatter_class=_Help, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"picture-features {__version__}")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_VerbParser)
    for verb in verbs:
        own = commands.add_parser(
            verb.name,
            usage=f"{command} {verb.name} {verb.usage} [options]",
            help=verb.summary,
            description=verb.description,
            epilog=epilog,
            formatter_class=_Help,
            allow_abbrev=False,
        )
        verb.arguments(own)
        for flag in verb.flags:
            flag.add_to(own)
        general = own.add_argument_group("general options")
        general.add_argument("--config", metavar="FILE", type=Path, help="A YAML file with settings.")
        general.add_argument(
            "--debug", action="store_true", help="Show every detail and the full traceback of an error."
        )
        if verb.json:
            general.add_argument("--json", action="store_true", help="Print the answer as JSON, for programs.")
        if verb.waits:
            general.add_argument(
                "--no-wait", action="store_true", help="Fail at once where the store does not answer, for scripts."
            )
        for key in common:
            section, _, name = key.partition(".")
            stem = "master" if section == "spark" else f"log-{name}"
            Flag(key, name.upper(), stem).add_to(general)  # type: ignore[arg-type] # a key of the four above
        own.set_defaults(command=verb)
    return parser


def run_program(
    program: str,
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    explain: Callable[[BaseException], AppError | None],
) -> int:
    """Parse, validate, run a verb, and turn whatever happens into one line and an exit code.

    Without a word it shows the help, which is no mistake.

    Args:
        program: the name of the log file.
        parser: from `make_parser`.
        argv: the command line; None for the process's own.
        explain: turns a failure of a library into an error for people, or None if it cannot.

    Raises:
        SystemExit: the parser has shown help, or the reader of stdout has seen enough.
    """
    words = sys.argv[1:] if argv is None else argv
    verb = arguments = None
    with interrupts.handled():
        try:
            use_utf8()
            if not words:
                parser.print_help()
                return 0
            arguments = parser.parse_args(words)
            verb = arguments.command
            return _run(program, verb, arguments, explain)
        except AppError as error:  # before there was a log
            return _report(error, None, None, debug=bool(arguments and arguments.debug), as_json=_wants_json(words))
        except KeyboardInterrupt:  # before there was a log, or after it
            return _report_end(verb, None, as_json=_wants_json(words))


def _run(
    program: str, verb: Verb, arguments: argparse.Namespace, explain: Callable[[BaseException], AppError | None]
) -> int:
    settings = _settings(arguments)
    output = resolve(settings.output) if settings.output and any(flag.key == "output" for flag in verb.flags) else None
    with logging_to(settings.log, program if output is None else f"{program}-{verb.name}", output) as log:
        try:
            answer = _try(verb, settings, arguments, explain)
        except KeyboardInterrupt:
            return _report_end(verb, log)
        except Exception as error:
            explained = explain(error)
            failure = explained or error
            if interrupts.interrupted_by():
                _logger.debug("failed while it was interrupted", exc_info=error)
                return _report_end(verb, log)
            if interrupts.received() and isinstance(failure, TransientError):
                _logger.debug("failed after it was told to stop", exc_info=error)
                return _report_end(verb, log, failure)
            return _report(error, explained, log, debug=arguments.debug)
    if answer:
        _print(answer, as_json=verb.json and arguments.json)
    return 0


def _print(answer: Answer | str, *, as_json: bool) -> None:
    try:
        write_out(f"{_printed(answer, as_json=as_json)}\n")
    except StorageError as error:
        raise StorageError(f"it is done, but {error}") from error


def _printed(answer: Answer | str, *, as_json: bool) -> str:
    if isinstance(answer, str):
        return answer
    return answer.as_json() if as_json else answer.as_text()


def _wants_json(words: Sequence[str]) -> bool:
    """Whether the log is to be JSON, as far as that can be told without the settings."""
    on_line = re.search(r"--log-format[ =](\S+)", " ".join(words))
    return not is_text(on_line[1] if on_line else os.environ.get(variable_of("log.format"), "auto"))


def _try(
    verb: Verb, settings: Settings, arguments: argparse.Namespace, explain: Callable[[BaseException], AppError | None]
) -> Answer | str | None:
    """Run a verb, and run it again while the store fails."""
    options = verb.options(arguments)
    rests = pauses()
    while True:
        try:
            return verb.run(settings, options)
        except Exception as error:
            failure = explain(error) or error
            hopeless = not isinstance(failure, TransientError) or interrupts.received()
            if hopeless or not verb.waits or arguments.no_wait:
                raise
            rest = next(rests)
            _logger.warning("%s; nothing is lost, trying again in %.0fs (--no-wait fails at once)", failure, rest)
            _logger.debug("what failed", exc_info=error)
        time.sleep(rest)


def _settings(arguments: argparse.Namespace) -> Settings:
    flags = {flag: value for flag, value in vars(arguments).items() if _is_setting(flag)}
    if arguments.debug:
        flags["log.level"] = "debug"
    settings = load_settings(flags, arguments.config)
    _require(settings, arguments.command.required)
    return settings


def _report(
    error: Exception, explained: AppError | None, log: Log | None, *, debug: bool, as_json: bool = False
) -> int:
    """Tell people what went wrong in one line, and the log all of it; returns the exit code."""
    known = error if isinstance(error, AppError) else explained
    message = str(known) if known else f"unexpected failure: {type(error).__name__}: {_first_line(error)}"
    if known:  # else the last line has the traceback
        _logger.debug("failed: %s", message, exc_info=error)
    if debug and (log.as_text if log else not as_json):
        traceback.print_exception(error)
    hint = f" (details: {log.file})" if log and (known is None or known.__cause__) else ""
    code = known.exit_code if known else AppError.exit_code
    data = {"exit_code": code, "error": type(known or error).__name__}
    write_last(f"{message}{hint}", data, log, as_json=as_json, unexpected=None if known else error)
    return code


def _report_end(
    verb: Verb | None, log: Log | None, failure: TransientError | None = None, *, as_json: bool = False
) -> int:
    """Tell people that a signal ended the program, and the failure of the store by then; returns the exit code."""
    name = interrupts.received() or "SIGINT"
    if verb and verb.drains:
        if failure:
            _logger.warning("%s: stopped while the store fails; nothing is lost: %s", name, failure)
        else:
            _logger.info("%s: stopped; no micro-batch was running", name)
        return 0
    data = {"exit_code": interrupts.EXIT_CODE, "error": "Interrupted"}
    write_last(f"interrupted by {name}", data, log, as_json=as_json)
    return interrupts.EXIT_CODE


def _is_setting(destination: str) -> bool:
    return "." in destination or destination in Settings.model_fields


def _require(settings: Settings, keys: Sequence[str]) -> None:
    for key in keys:
        if attrgetter(key)(settings) is None:
            raise SettingsError(f"{key}: is missing; give --{_stem(key)} URI, or set {variable_of(key)}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["(no message)"])[0]
