"""The command line of the stream: run, replay, reconcile, quarantine, status, export, forget, stop."""

from __future__ import annotations

import sys

from conf import interrupts

if __name__ == "__main__":  # the imports below take seconds, in which a signal has nothing to end
    interrupts.exit_at_once(0 if sys.argv[1:2] in (["run"], ["replay"]) else interrupts.EXIT_CODE)

import argparse
import json
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from tqdm.contrib.logging import logging_redirect_tqdm

# NumPy reads it as it is imported, below. With more threads, the last bit of a projection may not be that of a worker.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from conf.aws.connection import S3Connection
from conf.cli import Flag, Verb, make_parser, run_program
from conf.errors import LeaseHeldError, SettingsError
from conf.settings import Settings, parse_duration
from conf.spark.failures import explain_failure
from conf.spark.progress import bar
from conf.uris import resolve
from streaming.engine.job import end_without_work, open_job, skip
from streaming.engine.metrics import open_metrics
from streaming.engine.progress import ReplayProgress, log_batch
from streaming.export.run import dry_run, export
from streaming.features.schema import Reason
from streaming.forget.run import forget
from streaming.forget.wanted import read_wanted
from streaming.lease.drain import request_drain, wait_until_gone
from streaming.operate.health import check_health
from streaming.operate.quarantine import Listed, RetryRequested, list_quarantine, retry_quarantine
from streaming.operate.reconcile import reconcile
from streaming.operate.status import read_status
from streaming.output.batch_report import BatchReport
from streaming.output.format_number import check_format
from streaming.output.places import open_output
from streaming.storage.locations import open_folder

_logger = logging.getLogger("streaming")

_NAMES = (Flag("stream.ignore", "NAMES"), Flag("stream.include", "NAMES"))
_FLAGS = (
    Flag("input", "URI"),
    Flag("models", "URI"),
    Flag("output", "URI"),
    Flag("checkpoint", "URI"),
    Flag("stream.max_pictures", "N"),
    Flag("stream.settle", "TIME"),
    *_NAMES,
    Flag("stream.embeddings", "keep|drop"),
    Flag("stream.lease", "TIME"),
    Flag("stream.epoch_manifests", "N"),
    Flag("stream.drift_threshold", "F"),
    Flag("imaging.max_bytes", "SIZE"),
    Flag("imaging.max_pixels", "N"),
    Flag("imaging.timeout", "TIME"),
    Flag("imaging.fetch_ahead", "N"),
)
_FOLLOWING = (Flag("stream.discovery", "HOW"), Flag("stream.queue", "URL"), Flag("stream.interval", "TIME"))
_REQUIRED = ("input", "models", "output")
_STATUS_SECONDS = 5.0  # for the only attempt: in an outage, status should say so soon
_MAX_BEHIND = timedelta(minutes=10)


def _run(settings: Settings, _arguments: argparse.Namespace) -> None:
    with open_metrics(settings) as metrics, open_job(settings, lambda one: log_batch(one, metrics.tell(one))) as job:
        job.follow(metrics.look)


def _replay(settings: Settings, arguments: argparse.Namespace) -> str:
    try:
        return _replay_now(settings)
    except LeaseHeldError:
        if not arguments.skip_if_running:
            raise
        return skip(settings)


def _replay_now(settings: Settings) -> str:
    progress = ReplayProgress()

    def advance(report: BatchReport) -> None:
        progress.advance(report)
        metrics.tell(report)

    with open_metrics(settings) as metrics, open_job(settings, advance) as job, logging_redirect_tqdm():
        if job.is_idle():
            end_without_work(settings)
            return job.explain_idle()
        try:
            job.replay(progress.begin)
        finally:
            progress.end()
        progress.warn()
        return progress.summary(resolve(settings.output or ""))


def _add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--skip-if-running",
        action="store_true",
        help="For schedules: if another stream writes to the output, do nothing and end with exit code 0, where it "
        "would be 5.",
    )


def _reconcile(settings: Settings, arguments: argparse.Namespace) -> str:
    findings = reconcile(settings, enqueue=arguments.enqueue)
    return findings.as_json() if arguments.json else findings.as_text()


def _add_reconcile_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--enqueue", action="store_true", help="Request the missed pictures from the stream.")
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")


def _quarantine(settings: Settings, arguments: argparse.Namespace) -> str:
    reason = Reason(arguments.reason) if arguments.reason else None
    if arguments.action == "retry":
        answer: RetryRequested | Listed = retry_quarantine(settings, reason, dry_run=arguments.dry_run)
    elif arguments.dry_run:
        raise SettingsError("quarantine list: takes no --dry-run, as it changes nothing")
    else:
        answer = list_quarantine(settings, reason)
    return answer.as_json() if arguments.json else answer.as_text()


def _add_quarantine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "retry"), help="What to do.")
    parser.add_argument("--reason", choices=[*map(str, Reason)], help="Only pictures that are there for this reason.")
    parser.add_argument("--dry-run", action="store_true", help="With retry: only count them.")
    _add_json(parser)


def _status(settings: Settings, arguments: argparse.Namespace) -> str:
    output = open_output(settings, S3Connection.of(settings.s3).hasty(_STATUS_SECONDS))
    now = datetime.now(UTC)
    if arguments.check:
        return check_health(output, now, arguments.max_behind)
    status = read_status(output, now)
    return status.as_json() if arguments.json else status.as_text(now)


def _add_status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check",
        action="store_true",
        help="Only say in one line whether the stream is healthy, for monitors. The exit code is 8 if it is not: it "
        "failed, died, cannot reach the output, does not look for new pictures, or is behind.",
    )
    parser.add_argument(
        "--max-behind",
        metavar="TIME",
        type=_duration,
        default=_MAX_BEHIND,
        help="With --check: how long a picture may wait after it was found. Default: 10min.",
    )
    _add_json(parser)


def _duration(value: str) -> timedelta:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _export(settings: Settings, arguments: argparse.Namespace) -> str:
    if arguments.dry_run:
        return dry_run(settings).as_text()
    return export(settings, bar).as_text()


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="Say what would be written, and change nothing.")


def _forget(settings: Settings, arguments: argparse.Namespace) -> str:
    if "wanted" not in arguments:  # standard input can be read only once, and the verb may be retried
        arguments.wanted = read_wanted(arguments.paths, arguments.prefix, arguments.from_file)
    wanted = arguments.wanted
    if arguments.dry_run and not wanted:
        raise SettingsError("forget --dry-run: say what to forget: PATH..., --prefix P or --from-file F")
    answers = forget(settings, wanted, bar, dry_run=arguments.dry_run)
    if arguments.json:
        return json.dumps([answer.as_dict() for answer in answers])
    if not answers:
        return f"nothing was asked for, and nothing is left to finish in {resolve(settings.output or '')}"
    return "\n\n".join(answer.as_text(dry_run=arguments.dry_run) for answer in answers)


def _add_forget_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--json", action="store_true", help="Print a JSON list of receipts.")


def _stop(settings: Settings, _arguments: argparse.Namespace) -> str:
    output = open_folder(settings.output or "", S3Connection.of(settings.s3))
    check_format(output)
    holder = request_drain(output)
    if holder is None:
        return f"no stream runs on {output.root}"
    _logger.info("asked %s to finish its micro-batch and stop", holder)
    if wait_until_gone(output, holder):
        return f"stopped: {holder}"
    return f"{holder} died, or cannot reach the output: its lease ran out; if it comes back, it stops"


VERBS = (
    Verb(
        "run",
        "Featurize pictures as they arrive, until it is stopped.",
        "Watch a folder and add each new picture to OUTPUT/features, or to OUTPUT/quarantine with the reason why it\n"
        "cannot be used: exactly once, whatever is killed, restarted or retried. Each micro-batch uses the model that\n"
        "is current then. Ctrl-C, SIGTERM or the verb stop finish the running micro-batch and end with exit code 0.",
        (*_FLAGS[:4], *_FOLLOWING, *_FLAGS[4:]),
        _REQUIRED,
        _run,
        waits=True,
        drains=True,
    ),
    Verb(
        "replay",
        "Featurize what is in a folder now, then end with a summary.",
        "The same as run, for the pictures that are there now. Replaying a folder again adds only what is new. With\n"
        "--discovery events it takes what the queue has, until that is empty, and lists the input only the first time.",
        (*_FLAGS[:4], *_FOLLOWING, *_FLAGS[4:]),
        _REQUIRED,
        _replay,
        _add_replay_arguments,
        waits=True,
        drains=True,
    ),
    Verb(
        "reconcile",
        "Compare a folder with what the stream has seen of it.",
        "List the whole input and count the pictures that are in no manifest (missed), that were overwritten since\n"
        "they were seen (changed), and that are no longer there (gone). It changes no table, and may run beside the\n"
        "stream. With --enqueue it requests the missed ones: the running stream, or the next run or replay, takes\n"
        "them in once. The exit code is 0 whatever it finds; programs use --json.",
        (Flag("input", "URI"), Flag("output", "URI"), Flag("stream.settle", "TIME"), *_NAMES),
        ("input", "output"),
        _reconcile,
        _add_reconcile_arguments,
        waits=True,
    ),
    Verb(
        "quarantine",
        "List the pictures in quarantine, or retry them.",
        "list   the number of pictures by reason, and the newest of them\n"
        "retry  request them again: the running stream, or the next run or replay, reads them as they are now;\n"
        "       those that succeed move from quarantine to features, the others stay, once, with the new reason",
        (Flag("output", "URI"),),
        ("output",),
        _quarantine,
        _add_quarantine_arguments,
        "{list,retry}",
        waits=True,
    ),
    Verb(
        "status",
        "Show the status of the stream on an output.",
        "Show the process that writes to the output, the last micro-batch, outstanding pictures, rows, rates, model,\n"
        "drift, and recent pictures in quarantine. It reads the output alone, and so answers for a stream that is\n"
        "dead, too. It asks the store once and waits 5 s for an answer. --check is for monitors.",
        (Flag("output", "URI"),),
        ("output",),
        _status,
        _add_status_arguments,
    ),
    Verb(
        "export",
        "Compact OUTPUT/features into few large files.",
        "Make an immutable snapshot of the features that are committed now: sorted by date and path, in a folder of\n"
        "its own in TO, which TO/LATEST then names. All rows are of one model, where their embeddings were kept. Days\n"
        "that have not changed since the snapshot before are taken over from it. It changes no table, and may run\n"
        "beside the stream. If it is killed, run it again.",
        (
            Flag("output", "URI"),
            Flag("export.to", "URI"),
            Flag("export.format", "FORMAT"),
            Flag("export.model", "MODEL"),
            Flag("models", "URI"),
            Flag("export.since", "DATE"),
            Flag("export.target_mb", "N"),
            Flag("export.keep", "N"),
            Flag("export.glue_table", "DATABASE.TABLE"),
        ),
        ("output", "export.to"),
        _export,
        _add_export_arguments,
        waits=True,
    ),
    Verb(
        "forget",
        "Erase pictures from an output and from all that was made of it, for good.",
        "Put pictures on the output's denylist as salted hashes, so that they are never taken in again, and remove\n"
        "their rows from features, quarantine, manifests, the record of known pictures, requests, exports, saved\n"
        "features and the records of models. It may run beside the stream, and again after it was killed: each run\n"
        "first finishes runs that were killed, also without a PATH. It names the models to fit again, and leaves a\n"
        "receipt. Delete the pictures themselves, and old versions in a bucket that keeps them, yourself.",
        (Flag("output", "URI"), Flag("stream.lease", "TIME")),
        ("output",),
        _forget,
        _add_forget_arguments,
        "[PATH ...]",
        waits=True,
    ),
    Verb(
        "stop",
        "Stop the stream that writes to an output.",
        "Ask the stream to finish its micro-batch, and wait until it has stopped.",
        (Flag("output", "URI"),),
        ("output",),
        _stop,
        waits=True,
    ),
)


def main(argv: Sequence[str] | None = None, command: str = "python -m streaming") -> int:
    """Run the program, which was started by typing `command`; returns its exit code."""
    parser = make_parser(command, "New pictures become rows of a Parquet table of features, exactly once.", VERBS)
    return run_program("streaming", parser, argv, explain_failure)


if __name__ == "__main__":
    sys.exit(main())
