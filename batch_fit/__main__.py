"""The command line of the fit: fit, convert, models."""

from __future__ import annotations

import sys

from conf import interrupts

if __name__ == "__main__":  # the imports below take seconds, in which a signal has nothing to end
    interrupts.exit_at_once(interrupts.EXIT_CODE)

import argparse
from collections.abc import Sequence
from pathlib import Path

from batch_fit.backbone import CONVERTED, load_backbone
from batch_fit.classes import FEWEST
from batch_fit.job import fit
from batch_fit.listing import list_models
from conf.aws.connection import S3Connection
from conf.cli import Flag, Verb, make_parser, run_program
from conf.errors import SettingsError
from conf.settings import Settings
from conf.spark.failures import explain_failure
from conf.spark.progress import bar
from streaming.registry.bundle import ENOUGH_HELD_BACK, ClassifierFigures, HeldBackFigures
from streaming.registry.registry import Registry
from streaming.storage.locations import open_folder

_NAMED = 10


def _fit(settings: Settings, _arguments: argparse.Namespace) -> str:
    fitted = fit(settings, bar)
    manifest = fitted.manifest
    reasons = ", ".join(f"{reason} {count}" for reason, count in fitted.rejected.most_common())
    return "\n".join(
        (
            f"model        {manifest.version} ({'current' if fitted.promoted else 'not promoted'})",
            *([f"compared     {manifest.comparison.reason}"] if manifest.comparison else []),
            f"components   {manifest.k}, which keep {manifest.variance_kept:.1%} of the variance",
            f"weights      {manifest.weights}",
            f"pictures     {manifest.pictures:,}",
            f"held out     {describe_held_out(manifest.held_back)}",
            *_describe_classes(manifest.classifier),
            f"quarantined  {manifest.quarantined:,}{f' ({reasons})' if reasons else ''}",
            f"report       {fitted.report}",
        )
    )


def describe_held_out(figures: HeldBackFigures | None) -> str:
    """A line on the held-out pictures of a model: how many they are, and what it keeps of their variance."""
    if figures is None:
        return f"too few to tell drift ({ENOUGH_HELD_BACK} are needed)"
    if figures.pictures < ENOUGH_HELD_BACK:
        return f"{figures.pictures} of them, too few to tell drift ({ENOUGH_HELD_BACK} are needed)"
    return f"{figures.pictures:,} of them; a fit without them keeps {figures.variance_kept:.1%} of their variance"


def _describe_classes(figures: ClassifierFigures | None) -> list[str]:
    if figures is None:
        return []
    if figures.accuracy is None:
        measured = "too few pictures were held out to tell their accuracy"
    else:
        measured = f"accuracy {figures.accuracy:.1%} on {figures.pictures:,} held-out pictures"
    lines = [f"classes      {figures.classes:,}, {measured} (--holdout {figures.holdout})"]
    if figures.left_out:
        named, more = figures.left_out[:_NAMED], len(figures.left_out) - _NAMED
        names = ", ".join(named) + (f" and {more:,} more; the report has all" if more > 0 else "")
        lines.append(f"left out     {len(figures.left_out):,} with fewer than {FEWEST} pictures: {names}")
    return lines


def _models(settings: Settings, arguments: argparse.Namespace) -> str:
    registry = Registry(open_folder(settings.models or "", S3Connection.of(settings.s3)))
    action, version = arguments.action, arguments.version
    if version is None and action == "promote":
        raise SettingsError("models promote: say which VERSION; models list shows them")
    if version is not None and action in ("list", "rollback"):
        raise SettingsError(f"models {action}: takes no VERSION, but was given {version!r}")
    if action == "list":
        return list_models(settings)
    if action == "show":
        return registry.open(version or registry.current()).manifest.model_dump_json(indent=2)
    if action == "promote":
        registry.promote(version)
        return f"current: {version}"
    return f"current: {registry.rollback()}"


def _action(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "show", "promote", "rollback"), help="What to do.")
    parser.add_argument("version", nargs="?", metavar="VERSION", help="For show (default: the current) and promote.")


def _convert(settings: Settings, arguments: argparse.Namespace) -> str:
    to = arguments.to
    if to.suffix != CONVERTED:
        raise SettingsError(f"--to: {str(to)!r} is not allowed: the name has to end with {CONVERTED}")
    backbone = load_backbone(settings.fit.weights)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(backbone.flatbuffer)
    except OSError as error:
        raise SettingsError(f"--to: cannot write {to}: {error.strerror}") from error
    return f"{backbone.weights} converted: {to} ({len(backbone.flatbuffer):,} bytes)"


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
            Flag("fit.save_features", "URI"),
            Flag("fit.limit", "N"),
            Flag("fit.from_version", "VERSION", "from"),
            Flag("fit.promote", "WHEN"),
            Flag("fit.classify"),
            Flag("fit.holdout", "WHAT"),
            Flag("stream.ignore", "NAMES"),
            Flag("stream.include", "NAMES"),
            Flag("imaging.max_bytes", "SIZE"),
            Flag("imaging.max_pixels", "N"),
            Flag("imaging.timeout", "TIME"),
            Flag("imaging.fetch_ahead", "N"),
        ),
        ("models",),
        _fit,
        waits=True,
    ),
    Verb(
        "convert",
        "Convert the backbone once, for fits where there is no TensorFlow.",
        "Write the backbone as a LiteRT file. A fit with --weights FILE takes it as it is, and needs no TensorFlow:\n"
        "convert on a laptop, fit on a cluster.",
        (Flag("fit.weights", "WEIGHTS"),),
        (),
        _convert,
        _to,
        "--to FILE",
    ),
    Verb(
        "models",
        "List, show, promote or roll back the models of a registry.",
        "list      all versions, the current one marked; with --output, how many of its pictures are in which model\n"
        "show      the manifest of a version, after checking that nothing in it was changed\n"
        "promote   make a version the current one; running streams use it from their next micro-batch on\n"
        "rollback  go back to the version that was current before, step by step through history",
        (Flag("models", "URI"), Flag("output", "URI")),
        ("models",),
        _models,
        _action,
        "{list,show,promote,rollback} [VERSION]",
    ),
)


def main(argv: Sequence[str] | None = None, command: str = "python -m batch_fit") -> int:
    """Run the program, which was started by typing `command`; returns its exit code."""
    parser = make_parser(command, "Fit a StandardScaler and PCA to the features of pictures.", VERBS)
    return run_program("batch_fit", parser, argv, explain_failure)


if __name__ == "__main__":
    sys.exit(main())
