"""Measures discovery at a million keys: seconds, and memory of the driver.

    python -m benchmarks.discovery [KEYS [ROUNDS]]

Store and queue are synthetic (see `benchmarks.support.synthetic`); discoverers, boto3, the manifest log and the memory
of known pictures are real, in a process without Spark. First a million pictures are new, then all of them are known,
then events of more pictures come through a queue while the million is known.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import psutil

from benchmarks.support.common import CORES, ROUNDS, Figure, at_least, print_figures, spread, wait_for_quiet
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
_MAX_PICTURES = 2000 * CORES  # the default of a stream on this machine
_SOURCE = f"s3://{BUCKET}/{PREFIX}"


@dataclass(frozen=True)
class _Round:
    """Seconds of the clock and of CPU of two looks, messages per second, and resident megabytes.

    `memory` is that before, after each look, and after the events; `peak` is the most of all.
    """

    first: tuple[float, float]
    known: tuple[float, float]
    rate: float
    memory: tuple[float, float, float, float]
    peak: float


def measure(objects: int = _OBJECTS, rounds: int = ROUNDS) -> Iterator[Figure]:
    """Both discoverers, on one synthetic bucket, in a fresh process each round."""
    done = [_measure_round(objects) for _ in range(rounds)]
    for what, looks in (
        (f"first look at {objects:,} keys, all new, into manifests of {_MAX_PICTURES:,}", [one.first for one in done]),
        (f"look at {objects:,} known keys", [one.known for one in done]),
    ):
        yield Figure(what, spread([seconds for seconds, _ in looks], ".1f", " s"))
        yield Figure(f"{what}: CPU", spread([cpu for _, cpu in looks], ".1f", " s"))
    highest = [max(sizes) for sizes in zip(*(one.memory for one in done), strict=True)]
    what = "driver without Spark: before, after the first look, after the second, after the events; peak"
    yield Figure(what, f"{', '.join(f'{size:.0f}' for size in highest)}; {max(one.peak for one in done):.0f} MB")
    rates = [one.rate for one in done]
    yield Figure(f"{_EVENTS:,} events with {objects:,} keys known", spread(rates, ",.0f", " messages/s"))
    yield at_least(f"events over {_RATE:,} messages/s", [rate / _RATE for rate in rates], 1)


def _measure_round(objects: int) -> _Round:
    with serving(objects, _EVENTS) as address:
        wait_for_quiet()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_discover, objects, address).result()


def _discover(objects: int, address: str) -> _Round:
    keys = {"AWS_ACCESS_KEY_ID": "synthetic", "AWS_SECRET_ACCESS_KEY": "synthetic", "AWS_REGION": "eu-west-3"}
    os.environ.update(keys, AWS_ENDPOINT_URL=address)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        connection, output = S3Connection(), open_folder(folder)
        manifests.prepare_log(output)
        known = KnownPictures(output)
        log = ManifestLog(LooseTenure(output), known)
        source, inbox = Input(_SOURCE, connection), Inbox(log)
        listed = threading.Event()
        listing = ListingDiscoverer(source, log, inbox, timedelta(0), lambda look: listed.set())
        drain = Drain(Queue(QUEUE_URL, connection), Sorter(source), timedelta(seconds=5), lambda: False)
        events = EventsDiscoverer(source, drain, listing, log, inbox)
        before = _resident()
        first = _list_once(events, listed)
        after_first = _resident()
        known_again = _look(listing, objects)
        after_look = _resident()
        rate = _EVENTS / _seconds_to_follow(events, address)
        assert len(known) == objects + _EVENTS
        after_events = _resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return _Round(first, known_again, rate, (before, after_first, after_look, after_events), peak)


def _list_once(events: EventsDiscoverer, listed: threading.Event) -> tuple[float, float]:
    """The first start of a stream of events: all that is there, listed once; `listed` is set after that."""
    started = _clocks()
    events.follow(_MAX_PICTURES, StreamSettings().interval, listed)
    return _seconds_since(started)


def _look(listing: ListingDiscoverer, objects: int) -> tuple[float, float]:
    started = _clocks()
    look = listing.look(_MAX_PICTURES)
    assert (look.listed, look.found) == (objects, 0)
    return _seconds_since(started)


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def _seconds_since(started: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = (now - then for now, then in zip(_clocks(), started, strict=True))
    return wall, cpu


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


if __name__ == "__main__":
    print_figures(measure(*map(int, sys.argv[1:])))
