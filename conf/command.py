"""The command line of the installed package: `picture-features VERB`, with the verbs of the stream and of the fit.

A verb goes to its program as it was typed, and only that program is imported. Help is about both.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from conf import COMMAND, __version__, interrupts
from conf.without_pandas import keep_out_pandas

PROGRAMS = {
    "streaming": (
        "run",
        "replay",
        "reconcile",
        "quarantine",
        "status",
        "export",
        "similar",
        "duplicates",
        "forget",
        "stop",
    ),
    "batch_fit": ("fit", "convert", "models"),
}
"""The verbs of each program. They are named here, because to import a program takes seconds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    verb = words[0] if words else ""
    for program, verbs in PROGRAMS.items():
        if verb in verbs:
            exit_code: int = import_module(f"{program}.__main__").main(words, COMMAND)
            return exit_code
    if verb == "--version":
        sys.stdout.write(f"{COMMAND} {__version__}\n")
        return 0
    return _help(words)


def _help(words: Sequence[str]) -> int:
    """Answer what names no verb of ours: a question for help, or a mistake."""
    from conf.cli import make_parser, run_program  # noqa: PLC0415 # takes half a second
    from conf.spark.failures import explain_failure  # noqa: PLC0415 # as above

    verbs = [verb for program in PROGRAMS for verb in import_module(f"{program}.__main__").VERBS]
    parser = make_parser(COMMAND, "Pictures become rows of a Parquet table of features.", verbs)
    return run_program(COMMAND, parser, words, explain_failure)


def start() -> int:
    """The console script: `main`, but a signal counts from the first import on, in which nothing is begun."""
    interrupts.exit_at_once(0 if sys.argv[1:2] in (["run"], ["replay"]) else interrupts.EXIT_CODE)
    keep_out_pandas()
    return main()


if __name__ == "__main__":
    sys.exit(start())
