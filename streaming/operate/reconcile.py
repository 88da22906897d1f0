"""Compares the whole input with the manifest log, and requests what was missed.

A small input and output are compared in this process, all others on Spark, and whatever spark-submit has started. This
may run beside the stream, and takes no lease.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from conf.aws.connection import S3Connection
from conf.errors import InputError
from conf.settings import Settings
from conf.spark.progress import task_bar
from conf.spark.session import is_submitted, spark_session
from conf.uris import resolve
from streaming.lease.denylist import Denylist
from streaming.operate.findings import Changed, Findings
from streaming.operate.in_process import compare_in_process
from streaming.operate.on_spark import compare_on_spark
from streaming.output import requests
from streaming.output.places import Input, open_output
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import check_outside, is_on_s3
from streaming.storage.names import IGNORED, Names, explain_ignored

PICTURES_PER_REQUEST = 10_000
_EXAMPLES = 10


class Differences(Protocol):
    """Differences between an input and what the stream has seen of it; `comparison` has their kinds."""

    @property
    def listed(self) -> int:
        """The number of pictures in the input."""

    @property
    def unusable(self) -> int:
        """The number of entries that cannot be read, or are not files."""

    @property
    def ignored(self) -> int:
        """The number of files and folders that are ignored by their names."""

    def counts(self) -> Mapping[str, int]:
        """The number of differences by kind, without kinds that have none."""

    def first(self, what: str, count: int) -> Sequence[dict[str, Any]]:
        """The first differences of a kind by path, with the columns of `comparison.DIFFERENCES`; times are in UTC."""

    def missed(self) -> Iterator[StoredPicture]:
        """The missed pictures by path."""


def reconcile(settings: Settings, *, enqueue: bool) -> Findings:
    """Compare the input with the manifests, and with `enqueue` request the pictures that were missed.

    Raises:
        InputError: the input is missing, empty, or cannot be listed.
        OutputError: the output is not an output.
    """
    source, output = _open(settings)
    settle = settings.stream.settle
    if not is_submitted() and (differences := compare_in_process(source, output, settle)):
        return _conclude(source, output, differences, enqueue=enqueue)
    properties = source.connection.spark_properties() if is_on_s3(output.root) else {}
    with spark_session("picture-features reconcile", settings, properties) as spark, task_bar(spark):
        return _conclude(source, output, compare_on_spark(spark, source, output, settle), enqueue=enqueue)


def _open(settings: Settings) -> tuple[Input, Folder]:
    """Input and output, checked."""
    assert settings.input is not None
    assert settings.output is not None
    connection, left_out = S3Connection.of(settings.s3), Counter[str]()
    source = Input(resolve(settings.input), connection, Names.of(settings.stream))
    check_outside(source.root, {"output": resolve(settings.output)})
    if next(source.pictures(lambda path, why: left_out.update([why])), None) is None:
        ignored = explain_ignored(left_out[IGNORED])
        raise InputError(f"{source.root}: there are no pictures in this folder; check --input{ignored}")
    return source, open_output(settings, connection)


def _conclude(source: Input, output: Folder, differences: Differences, *, enqueue: bool) -> Findings:
    counts = differences.counts()
    return Findings(
        input=source.root,
        output=output.root,
        listed=differences.listed,
        **{what: counts.get(what, 0) for what in ("missed", "changed", "gone", "requested", "unsettled")},
        left_out=differences.unusable,
        ignored=differences.ignored,
        missed_examples=[row["path"] for row in differences.first("missed", _EXAMPLES)],
        changed_examples=[
            Changed(
                path=row["path"],
                length=row["length"],
                modification_time=row["modification_time"],
                known_length=row["known_length"],
                known_modification_time=row["known_modification_time"],
            )
            for row in differences.first("changed", _EXAMPLES)
        ],
        requests=_enqueue(output, differences.missed()) if enqueue else None,
    )


def _enqueue(output: Folder, missed: Iterator[StoredPicture]) -> list[str]:
    """Request pictures and return the requests' ids; the same pictures give the same requests.

    Pictures are requested in the order of their paths, so that a run after a kill, which finds only those that are not
    requested yet, makes the same remaining requests. This process holds one request at a time.
    """
    denylist = Denylist.load(output)  # loaded again: it may have grown since the listing
    pictures = (picture for picture in missed if not denylist.is_forgotten(picture.path))
    made = []
    while request := list(islice(pictures, PICTURES_PER_REQUEST)):
        made.append(requests.create_request(output, request))
    return made
