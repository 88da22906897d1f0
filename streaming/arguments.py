"""The arguments of the verbs of the stream: flags that several share, and those that are not settings."""

from __future__ import annotations

import argparse
from datetime import timedelta

from conf.cli import Flag, count
from conf.settings import parse_duration
from streaming.features.reasons import Reason
from streaming.search.choices import METRICS, WITHIN

NAMES = (Flag("stream.ignore", "NAMES"), Flag("stream.include", "NAMES"))
STREAM = (
    Flag("input", "URI"),
    Flag("models", "URI"),
    Flag("output", "URI"),
    Flag("checkpoint", "FOLDER"),
    Flag("stream.discovery"),
    Flag("stream.queue", "URL"),
    Flag("stream.interval", "TIME"),
    Flag("stream.max_pictures", "N"),
    Flag("stream.settle", "TIME"),
    *NAMES,
    Flag("stream.embeddings"),
    Flag("stream.lease", "TIME"),
    Flag("stream.epoch_manifests", "N"),
    Flag("stream.drift_threshold", "F"),
    Flag("imaging.max_bytes", "SIZE"),
    Flag("imaging.max_pixels", "N"),
    Flag("imaging.timeout", "TIME"),
    Flag("imaging.fetch_ahead", "N"),
)
"""Of run and replay."""
EXPORT = (
    Flag("output", "URI"),
    Flag("export.to", "URI"),
    Flag("export.format"),
    Flag("export.model", "MODEL"),
    Flag("models", "URI"),
    Flag("export.since", "DATE"),
    Flag("export.target_mb", "N"),
    Flag("export.keep", "N"),
    Flag("export.glue_table", "DATABASE.TABLE"),
)
MAX_BEHIND = timedelta(minutes=10)
"""The default of status --max-behind, which is None where it is not given."""


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of replay."""
    parser.add_argument(
        "--skip-if-running",
        action="store_true",
        help="For schedules: if another stream writes to the output, do nothing and end with exit code 0, where it "
        "would be 5.",
    )


def add_reconcile_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of reconcile."""
    parser.add_argument("--enqueue", action="store_true", help="Request the missed pictures from the stream.")


def add_quarantine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of quarantine."""
    parser.add_argument("action", choices=("list", "retry"), help="What to do.")
    reasons = [*map(str, Reason)]
    parser.add_argument(
        "--reason",
        metavar="REASON",
        choices=reasons,
        help=f"Only pictures that are there for this reason: {', '.join(reasons)}.",
    )
    parser.add_argument("--dry-run", action="store_true", help="With retry: only count them.")


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of status."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--watch",
        action="store_true",
        help="Show it again every two seconds, in place on a terminal and else as lines, until Ctrl-C ends that with "
        "exit code 0. On S3, each look is paid requests.",
    )
    how.add_argument(
        "--check",
        action="store_true",
        help="Only say in one line whether the stream is healthy, for monitors. The exit code is 8 if it is not: it "
        "failed, died, cannot reach the output, does not look for new pictures, or is behind.",
    )
    how.add_argument(
        "--html",
        metavar="FILE",
        help="Also write a page with rates, lag and drift over time, quarantine, and the latest pictures.",
    )
    parser.add_argument(
        "--max-behind",
        metavar="TIME",
        type=_duration,
        help="With --check: how long a picture may wait after it was found. Default: 10min.",
    )
    parser.add_argument("--no-thumbnails", action="store_true", help="With --html: show paths and no pictures.")


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of export."""
    parser.add_argument("--dry-run", action="store_true", help="Say what would be written, and change nothing.")


def add_similar_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of similar."""
    parser.add_argument(
        "picture", metavar="PICTURE", help="A file or s3a:// key, which need not be in the table; or the path of a row."
    )
    _add_table(parser)
    parser.add_argument("-n", metavar="N", dest="count", type=count, default=10, help="How many to find. Default: 10.")
    parser.add_argument("--metric", choices=[*METRICS], default="cosine", help="The distance. Default: cosine.")
    _add_html(parser)


def add_duplicates_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of duplicates."""
    _add_table(parser)
    parser.add_argument(
        "--within",
        metavar="D",
        type=_distance,
        default=WITHIN,
        help=f"The greatest cosine distance of two pictures of one scene, from 0 to 1. Default: {WITHIN:g}.",
    )
    parser.add_argument(
        "--burst",
        metavar="TIME",
        type=_duration,
        help="Only pictures of one camera that were captured within this time, like 10s, are of one scene.",
    )
    _add_html(parser)


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--table",
        metavar="URI",
        help="An output, a folder of exports, whose LATEST is followed, or one of its snapshots. Default: the setting "
        "export.to, or else output.",
    )
    parser.add_argument(
        "--model", metavar="VERSION", help="Compare the rows of this model. Default: the picture's, or the latest."
    )


def _add_html(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", metavar="FILE", help="Also write one page that shows the pictures, for a browser.")


def add_forget_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of forget."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="A picture, as the column path has it.")
    parser.add_argument(
        "--prefix",
        metavar="P",
        action="append",
        default=[],
        help="All pictures, present and to come, whose path begins with P. End the name of a folder with a slash.",
    )
    parser.add_argument(
        "--from-file", metavar="F", help="A text file with one path a line; - reads it from standard input."
    )
    parser.add_argument("--dry-run", action="store_true", help="Only show the rows that would be removed.")


def _duration(value: str) -> timedelta:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _distance(value: str) -> float:
    try:
        distance = float(value)
    except ValueError:
        distance = -1.0
    if not 0 <= distance <= 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a distance from 0 to 1")
    return distance
