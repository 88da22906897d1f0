"""The command line of the fit: fit, convert, models."""

from __future__ import annotations

import sys

from conf import interrupts
from conf.without_pandas import keep_out_pandas

if __name__ == "__main__":  # until a verb begins, a signal has nothing to end
    interrupts.exit_at_once(interrupts.EXIT_CODE)
    keep_out_pandas()

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batch_fit.converted import CONVERTED
from conf.answers import Answer
from conf.cli import Flag, Verb, count, make_parser, run_program
from conf.errors import SettingsError, StorageError
from conf.settings import Settings
from conf.spark.failures import explain_failure

if TYPE_CHECKING:  # each verb imports what it needs when it runs
    from batch_fit.fitted import Converted, Fitted


def _fit(settings: Settings, _arguments: argparse.Namespace) -> Fitted:
    from batch_fit.job import fit
    from conf.spark.progress import bar

    return fit(settings, bar)


def _models(settings: Settings, arguments: argparse.Namespace) -> Answer:
    from batch_fit.prune import prune
    from batch_fit.versions import change_current, list_models, show_model

    action, version = arguments.action, arguments.version
    if version is None and action == "promote":
        raise SettingsError("models promote: say which VERSION; models list shows them")
    if version is not None and action in ("list", "rollback", "prune"):
        raise SettingsError(f"models {action}: takes no VERSION, but was given {version!r}")
    if action == "prune":
        if arguments.keep is None:
            raise SettingsError("models prune: say with --keep N how many of the latest models stay")
        return prune(settings, arguments.keep, dry_run=arguments.dry_run)
    if arguments.keep is not None or arguments.dry_run:
        raise SettingsError(f"models {action}: takes neither --keep nor --dry-run, which are for prune")
    if action == "list":
        return list_models(settings)
    return show_model(settings, version) if action == "show" else change_current(settings, version)


def _action(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "show", "promote", "rollback", "prune"), help="What to do.")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="For show (default: the current) and promote.")
    parser.add_argument("--keep", metavar="N", type=count, help="With prune: how many of the latest models stay.")
    parser.add_argument("--dry-run", action="store_true", help="With prune: only say what would be deleted.")


def _tried_once(arguments: argparse.Namespace) -> argparse.Namespace:
    """Of the actions only prune is repeated while the store fails: a second rollback would go back further."""
    arguments.no_wait |= arguments.action != "prune"
    return arguments


def _convert(settings: Settings, arguments: argparse.Namespace) -> Converted:
    from batch_fit.backbone import load_backbone
    from batch_fit.fitted import Converted
    from conf.whole_file import can_write, write_whole

    to = arguments.to
    if to.suffix != CONVERTED:
        raise SettingsError(f"--to: {str(to)!r} is not allowed: the name has to end with {CONVERTED}")
    if to.parent.is_dir() and not can_write(to):  # before the conversion, which takes many seconds
        raise StorageError(f"--to: cannot write {to}; give a file in a folder that may be written to")
    backbone = load_backbone(settings.fit.weights, settings.fit.side)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        write_whole(to, backbone.flatbuffer)
    except OSError as error:
        raise StorageError(f"--to: cannot write {to}: {error.strerror}") from error
    return Converted(backbone.weights, backbone.side, str(to), len(backbone.flatbuffer))


def _to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", metavar="FILE", type=Path, required=True, help=f"Where to write it: *{CONVERTED}.")


VERBS = (
    Verb(
        "fit",
        "Fit a model on the pictures of a folder, or on the embeddings that a stream has kept.",
        "Featurize the pictures, fit StandardScaler and PCA to the features, save everything as a new version in the\n"
        "registry, with a report for people, and make it the current model. With --embeddings OUTPUT in place of\n"
        "--input it reads what the stream has kept of its pictures, which takes seconds.",
        (
            Flag("input", "URI"),
            Flag("fit.embeddings", "OUTPUT"),
            Flag("fit.since", "DATE"),
            Flag("fit.until", "DATE"),
            Flag("fit.backbone", "ID"),
            Flag("models", "URI"),
            Flag("fit.k", "N"),
            Flag("fit.variance", "F"),
            Flag("fit.weights", "WEIGHTS"),
            Flag("fit.side"),
            Flag("fit.save_features", "URI"),
            Flag("fit.limit", "N"),
            Flag("fit.from_version", "VERSION", "from"),
            Flag("fit.promote"),
            Flag("fit.classify"),
            Flag("fit.holdout"),
            Flag("fit.thumbnails"),
            Flag("stream.ignore", "NAMES"),
            Flag("stream.include", "NAMES"),
            Flag("imaging.max_bytes", "SIZE"),
            Flag("imaging.max_pixels", "N"),
            Flag("imaging.timeout", "TIME"),
            Flag("imaging.fetch_ahead", "N"),
        ),
        ("models",),
        _fit,
        json=True,
        waits=True,
    ),
    Verb(
        "convert",
        "Convert the backbone once, for fits where there is no TensorFlow.",
        "Write the backbone as a LiteRT file. A fit with --weights FILE takes it as it is, and needs no TensorFlow:\n"
        "convert on a laptop, fit on a cluster.",
        (Flag("fit.weights", "WEIGHTS"), Flag("fit.side")),
        (),
        _convert,
        _to,
        positional="--to FILE",
        json=True,
    ),
    Verb(
        "models",
        "List, show, promote, roll back or prune the models of a registry.",
        "list      all versions with their dates, the current one marked; with --output, also how many of its\n"
        "          pictures are in which model\n"
        "show      the manifest of a version, after checking that nothing in it was changed\n"
        "promote   make a version the current one; running streams use it from their next micro-batch on\n"
        "rollback  go back to the version that was current before, step by step through history\n"
        "prune     delete all versions but the N latest of --keep, the current one, the one that rollback goes to,\n"
        "          and those in use: with --output, by its rows and its latest exports",
        (Flag("models", "URI"), Flag("output", "URI")),
        ("models",),
        _models,
        _action,
        _tried_once,
        positional="{list,show,promote,rollback,prune} [VERSION]",
        json=True,
        waits=True,
    ),
)


def main(argv: Sequence[str] | None = None, command: str = "python -m batch_fit") -> int:
    """Run the program, which was started by typing `command`; returns its exit code."""
    parser = make_parser(command, "Fit a StandardScaler and PCA to the features of pictures.", VERBS)
    return run_program("batch_fit", parser, argv, explain_failure)


if __name__ == "__main__":
    sys.exit(main())
