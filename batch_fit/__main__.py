"""The command line of the fit: fit, convert, models.

It owns what a person sees of the fit and of the registry; it must not know how either works.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyspark.accumulators import Accumulator
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from batch_fit.backbone import CONVERTED, load_backbone
from batch_fit.job import fit
from conf.cli import Flag, Verb, make_parser, run_program
from conf.errors import SettingsError
from conf.s3 import S3Connection
from conf.session import explain_failure
from conf.settings import Settings
from streaming.features.bundle import BundleManifest
from streaming.features.registry import Registry
from streaming.features.storage import open_folder

_REFRESH_SECONDS = 0.5


@contextmanager
def _bar(total: int, done: Accumulator[int]) -> Iterator[None]:
    """A bar that follows `done` while the executors work."""
    leave = threading.Event()
    with tqdm(total=total, unit=" pictures", disable=None, dynamic_ncols=True) as bar, logging_redirect_tqdm():

        def follow() -> None:
            while not leave.wait(_REFRESH_SECONDS):
                bar.update(done.value - bar.n)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            leave.set()
            thread.join()
            bar.update(done.value - bar.n)


def _fit(settings: Settings, _arguments: argparse.Namespace) -> str:
    fitted = fit(settings, _bar)
    manifest = fitted.manifest
    reasons = ", ".join(f"{reason} {count}" for reason, count in fitted.rejected.most_common())
    return "\n".join(
        (
            f"model        {manifest.version}{' (current)' if fitted.promoted else ' (not promoted)'}",
            f"components   {manifest.k}, which keep {manifest.variance_kept:.1%} of the variance",
            f"weights      {manifest.weights}",
            f"pictures     {manifest.pictures:,}",
            f"quarantined  {manifest.quarantined:,}{f' ({reasons})' if reasons else ''}",
            f"report       {fitted.report}",
        )
    )


def _models(settings: Settings, arguments: argparse.Namespace) -> str:
    registry = Registry(open_folder(settings.models or "", S3Connection.of(settings.s3)))
    action, version = arguments.action, arguments.version
    if version is None and action == "promote":
        raise SettingsError("models promote: say which VERSION; models list shows them")
    if version is not None and action in ("list", "rollback"):
        raise SettingsError(f"models {action}: takes no VERSION, but was given {version!r}")
    if action == "list":
        return _table(registry)
    if action == "show":
        return registry.open(version or registry.current()).manifest.model_dump_json(indent=2)
    if action == "promote":
        registry.promote(version)
        return f"current: {version}"
    return f"current: {registry.rollback()}"


def _table(registry: Registry) -> str:
    versions = registry.versions()
    if not versions:
        return "no models yet"
    current = registry.current_or_none()
    rows: list[tuple[str, ...]] = [("", "version", "k", "variance", "pictures", "weights")]
    rows += [_row(manifest, current) for manifest in versions]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(manifest: BundleManifest, current: str | None) -> tuple[str, ...]:
    return (
        "*" if manifest.version == current else "",
        manifest.version,
        str(manifest.k),
        f"{manifest.variance_kept:.1%}",
        f"{manifest.pictures:,}",
        manifest.weights,
    )


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


_VERBS = (
    Verb(
        "fit",
        "Fit a model on the pictures of a folder.",
        "Featurize the pictures, fit StandardScaler and PCA to the features, save everything as a new version in the\n"
        "registry, with a report for people, and make it the current model.",
        (
            Flag("input", "URI"),
            Flag("models", "URI"),
            Flag("fit.k", "N"),
            Flag("fit.variance", "F"),
            Flag("fit.weights", "WEIGHTS"),
            Flag("fit.save_features", "URI"),
            Flag("fit.limit", "N"),
            Flag("fit.from_version", "VERSION", "from"),
            Flag("fit.promote", None),
            Flag("imaging.max_bytes", "SIZE"),
            Flag("imaging.max_pixels", "N"),
            Flag("imaging.fetch_ahead", "N"),
        ),
        ("input", "models"),
        _fit,
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
        "list      all versions, the current one marked\n"
        "show      what a version is, after checking that nothing in it was changed\n"
        "promote   make a version the current one; running streams use it from their next micro-batch on\n"
        "rollback  go back to the version that was current before, step by step through history",
        (Flag("models", "URI"),),
        ("models",),
        _models,
        _action,
        "{list,show,promote,rollback} [VERSION]",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = make_parser("batch_fit", "Fit a StandardScaler and PCA to the features of pictures.", _VERBS)
    return run_program("batch_fit", parser, argv, explain_failure)


if __name__ == "__main__":
    sys.exit(main())
