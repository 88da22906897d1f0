"""Measures discovery at a million keys: seconds, and memory of the driver.

    python -m benchmarks.discovery

Store and queue are synthetic (see `benchmarks.support.synthetic`); discoverers, boto3, the manifest log and the memory
of known pictures are real, in a process without Spark. First a million pictures are new, then all of them are known,
then events of more pictures come through a queue while the million is known.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta

import psutil

from benchmarks.support.common import CORES, Figure, at_least, print_figures, wait_for_quiet
from benchmarks.support.synthetic import BUCKET, PREFIX, QUEUE_URL, deleted, serving
from conf.aws.connection import S3Connection
from conf.settings import StreamSettings
from streaming.discovery.by_events import EventsDiscoverer
from streaming.discovery.by_listing import ListingDiscoverer
from streaming.discovery.drain import Drain
from streaming.discovery.messages import Sorter
from streaming.discovery.sqs import Queue
from streaming.output import manifests
from streaming.output.inbox import Inbox
from streaming.output.known import KnownPictures
from streaming.output.manifest_log import ManifestLog
from streaming.output.places import Input
from streaming.storage.locations import open_folder
from tests.support.tenures import LooseTenure

_OBJECTS = 1_000_000
_EVENTS = 50_000
_RATE = 1000  # messages a second that are asked for
_MAX_PICTURES = 1000 * CORES  # the default of a stream on this machine
_SOURCE = f"s3://{BUCKET}/{PREFIX}"


def measure() -> Iterator[Figure]:
    """Both discoverers, on one synthetic bucket, in a fresh process."""
    with serving(_OBJECTS, _EVENTS) as address:
        wait_for_quiet()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield from pool.submit(_discover, address).result()


def _discover(address: str) -> list[Figure]:
    keys = {"AWS_ACCESS_KEY_ID": "synthetic", "AWS_SECRET_ACCESS_KEY": "synthetic", "AWS_REGION": "eu-west-3"}
    os.environ.update(keys, AWS_ENDPOINT_URL=address)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        connection, output = S3Connection(), open_folder(folder)
        manifests.prepare_log(output)
        known = KnownPictures(output)
        log = ManifestLog(LooseTenure(output), known)
        source, inbox = Input(_SOURCE, connection), Inbox(log)
        listing = ListingDiscoverer(source, log, inbox, timedelta(0))
        drain = Drain(Queue(QUEUE_URL, connection), Sorter(source), timedelta(seconds=5), lambda: False)
        events = EventsDiscoverer(source, drain, listing, log, inbox)
        before = _resident()
        first = _seconds_of_list_once(events)
        after_first = _resident()
        look = _seconds_of_look(listing)
        after_look = _resident()
        rate = _EVENTS / _seconds_to_follow(events, address)
        assert len(known) == _OBJECTS + _EVENTS
        after_events = _resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return [
        Figure(f"first look at {_OBJECTS:,} keys, all new, into manifests of {_MAX_PICTURES:,}", f"{first:.1f} s"),
        Figure(f"look at {_OBJECTS:,} known keys", f"{look:.1f} s"),
        Figure(
            "driver without Spark: before, after the first look, after the second",
            _megabytes(before, after_first, after_look),
        ),
        Figure(f"{_EVENTS:,} events with {_OBJECTS:,} keys known", f"{rate:,.0f} messages/s"),
        at_least(f"events over {_RATE:,} messages/s", rate / _RATE, 1),
        Figure("driver without Spark: after the events, peak of all", _megabytes(after_events, peak)),
    ]


def _seconds_of_list_once(events: EventsDiscoverer) -> float:
    """The first start of a stream of events: all that is there, listed once."""
    leave = threading.Event()
    leave.set()
    started = time.monotonic()
    events.follow(_MAX_PICTURES, StreamSettings().interval, leave)
    return time.monotonic() - started


def _seconds_of_look(listing: ListingDiscoverer) -> float:
    started = time.monotonic()
    look = listing.look(_MAX_PICTURES)
    assert (look.listed, look.found) == (_OBJECTS, 0)
    return time.monotonic() - started


def _seconds_to_follow(events: EventsDiscoverer, address: str) -> float:
    """Until all messages are deleted, and so their pictures in manifests."""
    leave = threading.Event()
    thread = threading.Thread(target=events.follow, args=(_MAX_PICTURES, StreamSettings().interval, leave))
    started = time.monotonic()
    thread.start()
    while deleted(address) < _EVENTS and thread.is_alive():
        time.sleep(0.1)
    seconds = time.monotonic() - started
    leave.set()
    thread.join()
    return seconds


def _resident() -> float:
    return float(psutil.Process().memory_info().rss) / 1e6


def _megabytes(*sizes: float) -> str:
    return f"{', '.join(f'{size:.0f}' for size in sizes)} MB"


if __name__ == "__main__":
    print_figures(measure())
