"""The command line of the stream: run, replay, stop, and the verbs that look at an output or change it."""

from __future__ import annotations

import sys

from conf import interrupts
from conf.without_pandas import keep_out_pandas

if __name__ == "__main__":  # until a verb begins, a signal has nothing to end
    interrupts.exit_at_once(0 if sys.argv[1:2] in (["run"], ["replay"]) else interrupts.EXIT_CODE)
    keep_out_pandas()

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, TypeVar

# NumPy reads it as it is imported. With more threads, the last bit of a projection may not be that of a worker.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from conf.cli import Flag, Verb, make_parser, run_program
from conf.errors import LeaseHeldError, SettingsError
from conf.settings import Settings
from conf.spark.failures import explain_failure
from conf.uris import resolve
from streaming.arguments import (
    EXPORT,
    MAX_BEHIND,
    NAMES,
    STREAM,
    add_duplicates_arguments,
    add_export_arguments,
    add_forget_arguments,
    add_quarantine_arguments,
    add_reconcile_arguments,
    add_replay_arguments,
    add_similar_arguments,
    add_status_arguments,
)
from streaming.features.reasons import Reason

if TYPE_CHECKING:  # each verb imports what it needs when it runs
    from streaming.engine.progress import Idle, Replayed
    from streaming.export.answer import Exported, Planned
    from streaming.forget.answer import Forgotten
    from streaming.forget.wanted import Wanted
    from streaming.operate.findings import Findings
    from streaming.operate.health import Health
    from streaming.operate.quarantine import Listed, RetryRequested
    from streaming.operate.status import Status
    from streaming.operate.stop import Stopped
    from streaming.output.batch_report import BatchReport
    from streaming.search.duplicates import Duplicates
    from streaming.search.similar import Similar
    from streaming.storage.folder import Folder

_Found = TypeVar("_Found", "Similar", "Duplicates")
_REQUIRED = ("input", "models", "output")
_STATUS_SECONDS = 5.0  # for the only attempt: in an outage, status should say so soon


def _run(settings: Settings, _arguments: argparse.Namespace) -> None:
    from streaming.engine.job import open_job
    from streaming.engine.metrics import open_metrics
    from streaming.engine.progress import log_batch

    def tell(report: BatchReport) -> None:
        log_batch(report, metrics.tell(report))

    with open_metrics(settings) as metrics, open_job(settings, tell, needs_spark=lambda held: True) as job:
        job.follow(metrics.look)


def _replay(settings: Settings, arguments: argparse.Namespace) -> Replayed | Idle:
    try:
        return _replay_now(settings)
    except LeaseHeldError:
        if not arguments.skip_if_running:
            raise
        from streaming.engine.job import skip
        from streaming.engine.progress import Idle

        return Idle(resolve(settings.output or ""), skip(settings))


def _replay_now(settings: Settings) -> Replayed | Idle:
    from conf.spark.ticks import ticking
    from streaming.engine.job import end_without_work, open_job
    from streaming.engine.metrics import open_metrics
    from streaming.engine.progress import Idle, ReplayProgress

    output = resolve(settings.output or "")

    def advance(report: BatchReport) -> None:
        progress.advance(report)
        metrics.tell(report)

    with (
        ticking(settings.spark) as ticks,
        open_metrics(settings) as metrics,
        open_job(settings, advance, ticks, lambda held: held.is_new) as job,
    ):
        progress = ReplayProgress(ticks)
        if job.is_idle():
            end_without_work(settings)
            return Idle(output, job.explain_idle())
        try:
            left = job.replay(progress.begin)
        finally:
            progress.end()
        progress.warn()
        return progress.summary(output, left)


def _reconcile(settings: Settings, arguments: argparse.Namespace) -> Findings:
    from streaming.operate.reconcile import reconcile

    return reconcile(settings, enqueue=arguments.enqueue)


def _quarantine(settings: Settings, arguments: argparse.Namespace) -> Listed | RetryRequested:
    from streaming.operate.quarantine import list_quarantine, retry_quarantine

    reason = Reason(arguments.reason) if arguments.reason else None
    if arguments.action == "retry":
        return retry_quarantine(settings, reason, dry_run=arguments.dry_run)
    if arguments.dry_run:
        raise SettingsError("quarantine list: takes no --dry-run, which is for quarantine retry")
    return list_quarantine(settings, reason)


def _status(settings: Settings, arguments: argparse.Namespace) -> Status | Health | None:
    from conf.aws.connection import S3Connection
    from conf.pages.file import check_page
    from streaming.operate.health import check_health
    from streaming.operate.status import read_status
    from streaming.operate.watch import watch
    from streaming.output.places import open_output

    check_page(arguments.html)
    if arguments.no_thumbnails and not arguments.html:
        raise SettingsError("status --no-thumbnails: is about a page; give --html FILE, too")
    if arguments.max_behind is not None and not arguments.check:
        raise SettingsError("status --max-behind: is about a check; give --check, too")

    @cache
    def opened() -> Folder:
        return open_output(settings, S3Connection.of(settings.s3).hasty(_STATUS_SECONDS))

    if arguments.watch:
        watch(lambda: read_status(opened(), datetime.now(UTC)), as_json=arguments.json)
        return None
    output = opened()
    now = datetime.now(UTC)
    if arguments.check:
        return check_health(output, now, MAX_BEHIND if arguments.max_behind is None else arguments.max_behind)
    status = read_status(output, now)
    if not arguments.html:
        return status
    from streaming.operate.page import write_status

    page = os.path.abspath(arguments.html)
    write_status(settings, output, status, page, with_thumbnails=not arguments.no_thumbnails)
    return replace(status, page=page)


def _export(settings: Settings, arguments: argparse.Namespace) -> Exported | Planned:
    from conf.spark.progress import bar
    from streaming.engine.job import end_without_work
    from streaming.export.run import dry_run, export

    if arguments.dry_run:
        return dry_run(settings)
    exported = export(settings, bar)
    if not exported.plan.write:
        end_without_work(settings)
    return exported


def _similar(settings: Settings, arguments: argparse.Namespace) -> Similar:
    from conf.pages.file import check_page
    from streaming.search.page import write_similar
    from streaming.search.similar import SimilarRequest, similar

    wanted = SimilarRequest(arguments.picture, arguments.table, arguments.count, arguments.metric, arguments.model)
    check_page(arguments.html)
    return _with_page(settings, similar(settings, wanted), write_similar, arguments.html)


def _duplicates(settings: Settings, arguments: argparse.Namespace) -> Duplicates:
    from conf.pages.file import check_page
    from streaming.search.duplicates import DuplicatesRequest, duplicates
    from streaming.search.page import write_duplicates

    wanted = DuplicatesRequest(arguments.table, arguments.within, arguments.burst, arguments.model)
    check_page(arguments.html)
    return _with_page(settings, duplicates(settings, wanted), write_duplicates, arguments.html)


def _with_page(
    settings: Settings, found: _Found, write: Callable[[Settings, _Found, str], None], file: str | None
) -> _Found:
    """Write the page of an answer, if one is asked for; returns the answer, which says where it is."""
    if not file:
        return found
    page = os.path.abspath(file)
    write(settings, found, page)
    return replace(found, page=page)


def _to_forget(arguments: argparse.Namespace) -> tuple[Wanted, bool]:
    """What to forget, and whether this only shows the rows; standard input can be read only once."""
    from streaming.forget.wanted import read_wanted

    wanted = read_wanted(arguments.paths, arguments.prefix, arguments.from_file)
    if arguments.dry_run and not wanted:
        raise SettingsError("forget --dry-run: say what to forget: PATH..., --prefix P or --from-file F")
    return wanted, arguments.dry_run


def _forget(settings: Settings, asked: tuple[Wanted, bool]) -> Forgotten:
    from conf.spark.progress import bar
    from streaming.forget.run import forget

    wanted, only_look = asked
    return forget(settings, wanted, bar, dry_run=only_look)


def _stop(settings: Settings, _arguments: argparse.Namespace) -> Stopped:
    from streaming.operate.stop import stop

    return stop(settings)


VERBS = (
    Verb(
        "run",
        "Featurize pictures as they arrive, until it is stopped.",
        "Watch a folder and add each new picture to OUTPUT/features, or to OUTPUT/quarantine with the reason why it\n"
        "cannot be used: exactly once, whatever is killed, restarted or retried. Each micro-batch uses the model that\n"
        "is current then. Ctrl-C, SIGTERM or the verb stop finish the running micro-batch and end with exit code 0.",
        STREAM,
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
        STREAM,
        _REQUIRED,
        _replay,
        add_replay_arguments,
        json=True,
        waits=True,
        drains=True,
    ),
    Verb(
        "reconcile",
        "Compare a folder with what the stream has seen of it.",
        "List the whole input and count the pictures that are in no manifest (missed), that were overwritten since\n"
        "they were seen (changed), and that are no longer there (gone). It changes no table, and may run beside the\n"
        "stream. With --enqueue it requests the missed ones: the running stream, or the next run or replay, takes\n"
        "them in once. The exit code is 0 whatever it finds.",
        (Flag("input", "URI"), Flag("output", "URI"), Flag("stream.settle", "TIME"), *NAMES),
        ("input", "output"),
        _reconcile,
        add_reconcile_arguments,
        json=True,
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
        add_quarantine_arguments,
        positional="{list,retry}",
        json=True,
        waits=True,
    ),
    Verb(
        "status",
        "Show the status of the stream on an output.",
        "Show the process that writes to the output, the last micro-batch, outstanding pictures, rows, rates, model,\n"
        "drift, and recent pictures in quarantine. It reads the output alone, and so answers for a stream that is\n"
        "dead, too. It asks the store once and waits 5 s for an answer. --check is for monitors, --watch for people.",
        (Flag("output", "URI"),),
        ("output",),
        _status,
        add_status_arguments,
        json=True,
    ),
    Verb(
        "export",
        "Compact OUTPUT/features into few large files.",
        "Make an immutable snapshot of the features that are committed now: sorted by date and path, in a folder of\n"
        "its own in TO, which TO/LATEST then names. All rows are of one model, where their embeddings were kept. Days\n"
        "that have not changed since the snapshot before are taken over from it. It changes no table, and may run\n"
        "beside the stream. If it is killed, run it again.",
        EXPORT,
        ("output", "export.to"),
        _export,
        add_export_arguments,
        json=True,
        waits=True,
    ),
    Verb(
        "similar",
        "Find the pictures of a table that look like one.",
        "Rank the rows of a table by the distance of their features from those of a picture: all of them, in this\n"
        "process, without Spark and without an index. A picture that has no row is featurized as the rows were. Only\n"
        "rows of one model are compared: an export has all rows in one. It changes nothing, and may run beside the\n"
        "stream. A forgotten picture is never found.",
        (Flag("models", "URI"),),
        (),
        _similar,
        add_similar_arguments,
        positional="PICTURE",
        json=True,
        waits=True,
    ),
    Verb(
        "duplicates",
        "Find the pictures of a table of which one is enough.",
        "Group pictures with the same bytes, and pictures of the same scene: those whose features are near each\n"
        "other, directly or by way of others. Of each group it names the picture to keep: the one with the most\n"
        "pixels, then the most bytes, then the oldest. It compares all pairs, which takes minutes for a million\n"
        "pictures. It deletes nothing, and may run beside the stream. A forgotten picture is not shown.",
        (),
        (),
        _duplicates,
        add_duplicates_arguments,
        json=True,
        waits=True,
    ),
    Verb(
        "forget",
        "Erase pictures from an output and from all that was made of it, for good.",
        "Put pictures on the output's denylist as salted hashes, so that they are never taken in again, and remove\n"
        "their rows from features, embeddings, quarantine, manifests, the record of known pictures, requests,\n"
        "exports, saved features and the records of models. It may run beside the stream, and again after it was\n"
        "killed: each run first finishes runs that were killed, also without a PATH. It names the models to fit\n"
        "again, and leaves a receipt. Delete the pictures themselves, and old versions in a bucket that keeps them,\n"
        "yourself.",
        (Flag("output", "URI"), Flag("stream.lease", "TIME")),
        ("output",),
        _forget,
        add_forget_arguments,
        _to_forget,
        "[PATH ...]",
        json=True,
        waits=True,
    ),
    Verb(
        "stop",
        "Stop the stream that writes to an output.",
        "Ask the stream to finish its micro-batch, and wait until it has stopped.",
        (Flag("output", "URI"),),
        ("output",),
        _stop,
        json=True,
        waits=True,
    ),
)


def main(argv: Sequence[str] | None = None, command: str = "python -m streaming") -> int:
    """Run the program, which was started by typing `command`; returns its exit code."""
    parser = make_parser(command, "New pictures become rows of a Parquet table of features, exactly once.", VERBS)
    return run_program("streaming", parser, argv, explain_failure)


if __name__ == "__main__":
    sys.exit(main())
