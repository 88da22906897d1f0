"""What the command lines of both programs share: flags made from settings, one-line errors, exit codes.

It owns how a program talks to the person who starts it; it must not know what the verbs do.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

from conf.errors import AppError, SettingsError
from conf.loading import load_settings
from conf.logs import logging_to
from conf.settings import ENV_PREFIX, Settings, field_of

_logger = logging.getLogger(__name__)

_INTERRUPTED = 130
LOG_KEYS = ("log.level", "log.format", "log.folder")
COMMON_KEYS = ("spark.master", *LOG_KEYS)

EXIT_CODES = """\
exit codes:
  0 done   1 unexpected failure   2 wrong option or setting   3 input   4 model   5 output
  6 storage refused (permission, full disk)   7 platform (Java, packages)   130 stopped by a second signal
"""
EPILOG = f"""\
Every option is also a key of the YAML file of --config (see conf/local.yaml) and an environment variable
({ENV_PREFIX}INPUT, {ENV_PREFIX}STREAM__INTERVAL, ...). Flags win over the environment, which wins over the file.

{EXIT_CODES}"""


@dataclass(frozen=True)
class Flag:
    """A command-line flag for a setting; its help is the setting's description.

    Attributes:
        key: dotted key of the setting.
        name: the flag; by default the last part of the key.
        metavar: how help names the value.
    """

    key: str
    metavar: str
    name: str = ""

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare the flag. A flag that is not given leaves no trace, so that the next source decides."""
        field = field_of(self.key)
        stem = self.name or _stem(self.key)
        text = (field.description or "").replace("%", "%%")
        default = "" if field.default is None or "efault" in text else f" Default: {_shown(field.default)}."
        parser.add_argument(
            f"--{stem}", dest=self.key, metavar=self.metavar, default=argparse.SUPPRESS, help=text + default
        )


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
        run: called with the settings and the positional arguments; returns what to print on stdout, if anything.
        arguments: declares positional arguments.
        positional: how help shows them.
    """

    name: str
    summary: str
    description: str
    flags: Sequence[Flag]
    required: Sequence[str]
    run: Callable[[Settings, argparse.Namespace], str | None]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    positional: str = ""

    @property
    def usage(self) -> str:
        """What a command line must have: the positional arguments and the required flags."""
        return " ".join((self.positional, *(f"--{_stem(key)} URI" for key in self.required))).strip()


class _Parser(argparse.ArgumentParser):
    """Answers a wrong command line in one line, as every other error is answered."""

    def error(self, message: str) -> NoReturn:
        self.exit(SettingsError.exit_code, f"error: {message}; see {self.prog} --help\n")


def make_parser(
    program: str,
    description: str,
    verbs: Sequence[Verb],
    epilog: str = EPILOG,
    common: Sequence[str] = COMMON_KEYS,
) -> argparse.ArgumentParser:
    """The parser of a program with its verbs.

    Args:
        program: `python -m PROGRAM`.
        description: one line for its help.
        verbs: what it does.
        epilog: what stands below each help.
        common: keys of settings that each verb takes.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=f"python -m {program}", description=description, epilog=epilog, formatter_class=raw)
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in verbs:
        command = commands.add_parser(
            verb.name,
            usage=" ".join((f"python -m {program}", verb.name, verb.usage, "[options]")),
            help=verb.summary,
            description=verb.description,
            epilog=epilog,
            formatter_class=raw,
        )
        verb.arguments(command)
        for flag in verb.flags:
            flag.add_to(command)
        general = command.add_argument_group("general options")
        general.add_argument("--config", metavar="FILE", type=Path, help="A YAML file with settings.")
        general.add_argument(
            "--debug", action="store_true", help="Show every detail and the full traceback of an error."
        )
        for key in common:
            section, _, name = key.partition(".")
            stem = "master" if section == "spark" else f"log-{name}"
            Flag(key, name.upper(), stem).add_to(general)  # type: ignore[arg-type] # a key of the four above
        command.set_defaults(command=verb)
    return parser


def run_program(
    program: str,
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    explain: Callable[[BaseException], AppError | None],
) -> int:
    """Parse, validate, run a verb, and turn whatever happens into one line and an exit code.

    Args:
        program: the name of the log file.
        parser: from `make_parser`.
        argv: the command line; None for the process's own.
        explain: turns a failure of a library into an error for people, or None if it cannot.
    """
    arguments = parser.parse_args(argv)
    debug = arguments.debug
    try:
        settings = _settings(arguments)
        with logging_to(settings.log, program) as log_file:
            try:
                answer = arguments.command.run(settings, arguments)
            except Exception as error:  # noqa: BLE001 - the last line of defence: people get one line, the log the rest
                return _report(error, explain(error), log_file, debug=debug)
        if answer:
            sys.stdout.write(f"{answer}\n")
            sys.stdout.flush()
    except AppError as error:
        return _report(error, None, None, debug=debug)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output, like head, has seen enough
        sys.stdout = None  # or Python complains when it flushes it at exit
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    flags = {flag: value for flag, value in vars(arguments).items() if _is_setting(flag)}
    if arguments.debug:
        flags["log.level"] = "debug"
    settings = load_settings(flags, arguments.config)
    _require(settings, arguments.command.required)
    return settings


def _report(error: Exception, explained: AppError | None, log_file: Path | None, *, debug: bool) -> int:
    """Tell people what went wrong in one line, and the log all of it; returns the exit code."""
    known = error if isinstance(error, AppError) else explained
    message = str(known) if known else f"unexpected failure: {type(error).__name__}: {_first_line(error)}"
    _logger.debug("failed: %s", message, exc_info=error)
    if debug:
        traceback.print_exception(error)
    hint = f" (details: {log_file})" if log_file and (known is None or known.__cause__) else ""
    sys.stderr.write(f"error: {message}{hint}\n")
    return known.exit_code if known else AppError.exit_code


def _is_setting(destination: str) -> bool:
    section, dot, name = destination.partition(".")
    if dot:
        return True
    return section in Settings.model_fields and not name


def _require(settings: Settings, keys: Sequence[str]) -> None:
    for key in keys:
        if attrgetter(key)(settings) is None:
            variable = f"{ENV_PREFIX}{key.replace('.', '__').upper()}"
            raise SettingsError(f"{key}: is missing; give --{_stem(key)} URI, or set {variable}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["(no message)"])[0]
