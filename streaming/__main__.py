"""The command line of the stream: run, replay, reconcile, quarantine, status, export, forget, stop.

It owns what a person sees of the stream; it must not know how the stream works.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from tqdm.contrib.logging import logging_redirect_tqdm

from conf.cli import Flag, Verb, make_parser, run_program
from conf.errors import SettingsError
from conf.progress import bar
from conf.s3 import S3Connection
from conf.session import explain_failure
from conf.settings import Settings
from streaming import metrics
from streaming.batch_report import BatchReport
from streaming.export import dry_run, export
from streaming.features.schema import Reason
from streaming.features.storage import open_folder, resolve
from streaming.forget import forget, read_wanted
from streaming.job import open_job
from streaming.lease import request_drain, wait_until_gone
from streaming.places import open_output
from streaming.quarantine import Asked, Listed, list_quarantine, retry_quarantine
from streaming.reconcile import reconcile
from streaming.status import read_status
from streaming.telling import ReplayProgress, log_batch

_logger = logging.getLogger("streaming")

_FLAGS = (
    Flag("input", "URI"),
    Flag("models", "URI"),
    Flag("output", "URI"),
    Flag("checkpoint", "URI"),
    Flag("stream.max_pictures", "N"),
    Flag("stream.settle", "TIME"),
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


def _run(settings: Settings, _arguments: argparse.Namespace) -> None:
    output, with_metrics = resolve(settings.output or ""), settings.log.metrics == "emf"
    heartbeat = metrics.Heartbeat(output)

    def log(report: BatchReport) -> None:
        log_batch(report, metrics.of_batch(report, output) if with_metrics else {})

    with open_job(settings, log) as job:
        job.follow(heartbeat.look if with_metrics else lambda busy: None)


def _replay(settings: Settings, _arguments: argparse.Namespace) -> str:
    progress = ReplayProgress()
    with open_job(settings, progress.advance) as job, logging_redirect_tqdm():
        if job.is_idle():
            return job.explain_idle()
        try:
            job.replay(progress.begin)
        finally:
            progress.end()
        return progress.summary(resolve(settings.output or ""))


def _reconcile(settings: Settings, arguments: argparse.Namespace) -> str:
    findings = reconcile(settings, enqueue=arguments.enqueue)
    return findings.as_json() if arguments.json else findings.as_text()


def _add_reconcile_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--enqueue", action="store_true", help="Request what was missed from the stream.")
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")


def _quarantine(settings: Settings, arguments: argparse.Namespace) -> str:
    reason = Reason(arguments.reason) if arguments.reason else None
    if arguments.action == "retry":
        answer: Asked | Listed = retry_quarantine(settings, reason, dry_run=arguments.dry_run)
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
    output = open_output(settings, S3Connection.of(settings.s3))
    status = read_status(output, datetime.now(UTC))
    return status.as_json() if arguments.json else status.as_text()


def _export(settings: Settings, arguments: argparse.Namespace) -> str:
    if arguments.dry_run:
        return dry_run(settings).as_text()
    return export(settings, bar).as_text()


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="Say what would be written, and change nothing.")


def _forget(settings: Settings, arguments: argparse.Namespace) -> str:
    wanted = read_wanted(arguments.paths, arguments.prefix, arguments.from_file)
    if arguments.dry_run and not wanted:
        raise SettingsError("forget --dry-run: say what to forget: PATH..., --prefix P or --from-file F")
    receipts = forget(settings, wanted, bar, dry_run=arguments.dry_run)
    if arguments.json:
        return json.dumps([receipt.model_dump(mode="json") for receipt in receipts])
    if not receipts:
        return f"nothing was asked for, and nothing is left to finish in {resolve(settings.output or '')}"
    return "\n\n".join(receipt.as_text(dry_run=arguments.dry_run) for receipt in receipts)


def _add_forget_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="A picture, as the column path has it.")
    parser.add_argument(
        "--prefix",
        metavar="P",
        action="append",
        default=[],
        help="All pictures, present and to come, whose path begins with P. End the name of a folder with a slash.",
    )
    parser.add_argument("--from-file", metavar="F", help="A file with one path a line; - reads standard input.")
    parser.add_argument("--dry-run", action="store_true", help="Only tell what would be removed.")
    parser.add_argument("--json", action="store_true", help="Print a JSON list of receipts.")


def _stop(settings: Settings, _arguments: argparse.Namespace) -> str:
    output = open_folder(settings.output or "", S3Connection.of(settings.s3))
    holder = request_drain(output)
    if holder is None:
        return f"no stream runs on {output.root}"
    _logger.info("asked %s to finish its micro-batch and stop", holder)
    wait_until_gone(output, holder)
    return f"stopped: {holder}"


_VERBS = (
    Verb(
        "run",
        "Featurize pictures as they arrive, until it is stopped.",
        "Watch a folder and add each new picture to OUTPUT/features, or to OUTPUT/quarantine with the reason why it\n"
        "cannot be used: exactly once, whatever is killed, restarted or retried. Each micro-batch uses the model that\n"
        "is current then. Ctrl-C, SIGTERM or the verb stop finish the micro-batch in work and end with exit code 0.",
        (*_FLAGS[:4], *_FOLLOWING, *_FLAGS[4:]),
        _REQUIRED,
        _run,
    ),
    Verb(
        "replay",
        "Featurize what is in a folder now, then end with a summary.",
        "The same as run, for the pictures that are there now. Replaying a folder again adds only what is new.",
        _FLAGS,
        _REQUIRED,
        _replay,
    ),
    Verb(
        "reconcile",
        "Compare a folder with what the stream has seen of it.",
        "List the whole input and count the pictures that are in no manifest (missed), that were overwritten since\n"
        "they were seen (changed), and that are no longer there (gone). It changes no table, and may run beside the\n"
        "stream. With --enqueue it requests the missed ones: the running stream, or the next run or replay, takes\n"
        "them in once. The exit code is 0 whatever it finds; --json tells programs what that is.",
        (Flag("input", "URI"), Flag("output", "URI"), Flag("stream.settle", "TIME")),
        ("input", "output"),
        _reconcile,
        _add_reconcile_arguments,
    ),
    Verb(
        "quarantine",
        "List what is in quarantine, or have it featurized once more.",
        "list   how many pictures are there for which reason, and the newest of them\n"
        "retry  ask for them once more: the running stream, or the next run or replay, reads them as they are now;\n"
        "       what passes moves from quarantine to features, what fails again stays, once, with the new reason",
        (Flag("output", "URI"),),
        ("output",),
        _quarantine,
        _add_quarantine_arguments,
        "{list,retry}",
    ),
    Verb(
        "status",
        "Tell how the stream on an output is doing.",
        "Who writes to the output, the last micro-batch, what is outstanding, rates, model, drift, and what was\n"
        "quarantined of late. It reads the output alone, and so answers for a stream that is dead, too.",
        (Flag("output", "URI"),),
        ("output",),
        _status,
        _add_json,
    ),
    Verb(
        "export",
        "Write what is in OUTPUT/features into few large files.",
        "Make an immutable snapshot of the features that are committed now: sorted by date and path, in a folder of\n"
        "its own in TO, which TO/LATEST then names. Days that have not changed since the snapshot before are taken\n"
        "over from it. It changes no table, and may run beside the stream. If it is killed, run it again.",
        (
            Flag("output", "URI"),
            Flag("export.to", "URI"),
            Flag("export.format", "FORMAT"),
            Flag("export.since", "DATE"),
            Flag("export.target_mb", "N"),
            Flag("export.keep", "N"),
        ),
        ("output", "export.to"),
        _export,
        _add_export_arguments,
    ),
    Verb(
        "forget",
        "Erase pictures from an output and from all that was made of it, for good.",
        "Put pictures on the output's denylist as salted hashes, so that they are never taken in again, and remove\n"
        "their rows from features, quarantine, manifests, the record of known pictures, requests, exports, saved\n"
        "features and the records of models. It may run beside the stream, and again after it was killed: each run\n"
        "first finishes what others have left, also without a PATH. It names the models to fit anew, and leaves a\n"
        "receipt. The pictures themselves, and old versions in a bucket that keeps them, are yours to delete.",
        (Flag("output", "URI"), Flag("stream.lease", "TIME")),
        ("output",),
        _forget,
        _add_forget_arguments,
        "[PATH ...]",
    ),
    Verb(
        "stop",
        "Stop the stream that writes to an output.",
        "Ask the stream to finish its micro-batch, and wait until it has stopped.",
        (Flag("output", "URI"),),
        ("output",),
        _stop,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = make_parser("streaming", "New pictures become rows of a Parquet table of features, exactly once.", _VERBS)
    return run_program("streaming", parser, argv, explain_failure)


if __name__ == "__main__":
    sys.exit(main())
