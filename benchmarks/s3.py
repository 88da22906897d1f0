"""The stream on S3: what latency of the store costs, how soon a row can be read, and which requests are made.

    python -m benchmarks.s3

The store is versitygw on loopback; toxiproxy delays its answers. In the steady state, replays with and without a delay
run side by side; store and proxies have no core of their own. Whole replays run in turn.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.parquet as pq

from benchmarks.support.common import (
    CORES,
    INTERVAL,
    ROUNDS,
    Figure,
    at_least,
    at_most,
    print_figures,
    run_program,
    spread,
)
from benchmarks.support.pairs import System, committed, compare, enough_pictures
from conf.aws.connection import S3Connection
from tests.support.buckets import Bucket
from tests.support.samples import write_samples
from tests.support.scratch import new_place
from tests.support.servers import CREDENTIALS, FaultyStore, moto, toxiproxy, versitygw_on
from tests.support.streams import Place, start

_WHOLE_PICTURES = 1200
_DELAYS = (0.0, 0.03)  # seconds on each request
_WARM_UP, _LANDINGS = 10, 40
_PAUSE = (0.3, 1.5)  # seconds
_BATCHES = (5, 25, 125)  # the differences are what a micro-batch costs, early and late
_PER_BATCH = 4
_SETTLING, _IDLE = 75.0, 120.0  # seconds; until its query rests


def measure() -> Iterator[Figure]:
    """Throughput, whole replays, latency, requests."""
    os.environ.update(CREDENTIALS)
    with new_place() as place, tempfile.TemporaryDirectory() as folder, versitygw_on(Path(folder)) as address:
        pictures = write_samples(place.root / "pictures", 2000, broken=0).pictures
        store = _Store(address, Path(folder), place)
        yield from _measure_steady(store, pictures)
        yield from _measure_whole(store, pictures)
        yield from _measure_latency(store, pictures)
        yield from _measure_requests(store, pictures)
        yield from _measure_idle(store, pictures)


class _Store:
    def __init__(self, address: str, folder: Path, place: Place) -> None:
        self.address = address
        self._folder = folder
        self._place = place
        self._client: Any = S3Connection(endpoint=address).client()

    def new_bucket(self, pictures: Sequence[Path], count: int) -> Bucket:
        name = f"pictures-{time.monotonic_ns()}"
        self._client.create_bucket(Bucket=name)
        bucket = Bucket(name, self._client)
        bucket.put_tree(self._place.models, "models")

        def put(number: int) -> None:
            self._client.upload_file(str(pictures[number % len(pictures)]), name, f"input/{number:06}.jpg")

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(put, range(count)))
        return bucket

    def arguments(self, bucket: Bucket, verb: str, *more: str) -> list[str]:
        return [*bucket.arguments(verb, "--log-folder", str(self._place.root / "log")), *_MASTER, *more]

    def system(self, name: str, folder: Path, address: str, pictures: Sequence[Path]) -> System:
        """A replay with one slot that reaches the store by `address`, on enough pictures for a comparison."""
        bucket = self.new_bucket(pictures, len(pictures))
        place = self._folder / bucket.name
        for number in range(len(pictures), enough_pictures() // 2):  # no more than that, with boto3 and the store
            os.link(place / f"input/{number % len(pictures):06}.jpg", place / f"input/{number:06}.jpg")
        words = self.arguments(bucket, "replay", "--master", "local[1,4]")
        command = ["env", f"AWS_ENDPOINT_URL={address}", sys.executable, "-m", "streaming", *words]
        return System(name, folder, command, partial(committed, place / "output"))

    def commits(self, bucket: Bucket) -> list[Path]:
        return sorted((self._folder / bucket.name).glob("output/features/date=*/2*.parquet"))


_MASTER = ("--master", f"local[{CORES},4]")


@contextmanager
def _reached_through(address: str) -> Iterator[None]:
    os.environ["AWS_ENDPOINT_URL"] = address
    try:
        yield
    finally:
        del os.environ["AWS_ENDPOINT_URL"]


def _measure_steady(store: _Store, pictures: Sequence[Path]) -> Iterator[Figure]:
    """Two replays side by side, as `benchmarks.support.pairs` has it, each through a proxy of its own."""
    with ExitStack() as stack:
        systems = []
        for delay in _DELAYS:
            proxy = stack.enter_context(toxiproxy(store.address))
            proxy.delay(delay)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
            name = f"replay on S3 with {delay * 1000:.0f} ms on each request"
            systems.append(store.system(name, folder, proxy.address, pictures))
        near, far = systems
        yield from compare(far, near).figures("steady state", target=0.95)


def _measure_whole(store: _Store, pictures: Sequence[Path]) -> Iterator[Figure]:
    took: dict[float, list[float]] = {delay: [] for delay in _DELAYS}
    for delay, seconds in _in_turn(store, pictures, _WHOLE_PICTURES):
        took[delay].append(seconds)
    near, far = took.values()
    ratios = [one / other for one, other in zip(near, far, strict=True)]
    yield Figure(f"whole replay of {_WHOLE_PICTURES:,} on S3, {ROUNDS} turns", spread(near, ".1f", " s"))
    yield at_least(f"the same with none over {_DELAYS[1] * 1000:.0f} ms on each request", ratios, 0.95)


def _in_turn(store: _Store, pictures: Sequence[Path], count: int) -> Iterator[tuple[float, float]]:
    """Replays with each delay in turn: the delay, and the seconds of the program."""
    with toxiproxy(store.address) as proxy, _reached_through(proxy.address):
        for _ in range(ROUNDS):
            for delay in _DELAYS:
                proxy.delay(0)
                bucket = store.new_bucket(pictures, count)
                proxy.delay(delay)
                yield delay, run_program("streaming", store.arguments(bucket, "replay"))


def _measure_latency(store: _Store, pictures: Sequence[Path]) -> Iterator[Figure]:
    with toxiproxy(store.address) as proxy, moto() as queues, _reached_through(proxy.address):
        for discovery in ("listing", "events"):
            for delay in _DELAYS:
                proxy.delay(delay)
                bucket = store.new_bucket(pictures, 1)
                queue = _Queue(queues, bucket.name)
                following = ["--discovery", "events", "--queue", queue.url] if discovery == "events" else []
                stream = start(
                    "streaming",
                    store.arguments(bucket, "run", "--interval", INTERVAL, *following),
                    AWS_ENDPOINT_URL_SQS=queues,
                )
                try:
                    seconds = _latencies(store, bucket, queue, pictures)[_WARM_UP:]
                finally:
                    stream.terminate()
                    stream.communicate()
                p50, p95 = np.percentile(seconds, [50, 95])
                what = f"landed -> readable on S3 by {discovery}, {delay * 1000:.0f} ms on each request"
                if delay:
                    yield Figure(f"{what}, p50 and p95 of {len(seconds)}", f"{p50:.2f} s, {p95:.2f} s")
                else:
                    yield at_most(f"{what}, p50 of {len(seconds)}", float(p50), 1.5, " s")
                    yield at_most(f"{what}, p95", float(p95), 3, " s")


class _Queue:
    """A queue that gets what S3 would send; versitygw sends nothing itself, so S3's own delay is not in it."""

    def __init__(self, address: str, name: str) -> None:
        self._client: Any = boto3.client("sqs", endpoint_url=address, region_name=CREDENTIALS["AWS_REGION"])
        self.url = self._client.create_queue(QueueName=name)["QueueUrl"]

    def tell(self, bucket: str, key: str, length: int) -> None:
        record = {
            "eventName": "ObjectCreated:Put",
            "eventTime": datetime.now(UTC).isoformat(),
            "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": length, "eTag": "0"}},
        }
        self._client.send_message(QueueUrl=self.url, MessageBody=json.dumps({"Records": [record]}))


def _latencies(store: _Store, bucket: Bucket, queue: _Queue, pictures: Sequence[Path]) -> list[float]:
    pauses = random.Random(0)
    seconds: list[float] = []
    read: set[Path] = set()
    while not store.commits(bucket):  # of the picture that was there
        time.sleep(0.1)
    for number, picture in enumerate(pictures[: _WARM_UP + _LANDINGS]):
        key = f"input/landing/{number}.jpg"
        path = f"s3://{bucket.name}/{key}"
        bucket.s3.upload_file(str(picture), bucket.name, key)
        queue.tell(bucket.name, key, picture.stat().st_size)
        landed = time.monotonic()
        readable = False
        while not readable:
            time.sleep(0.01)
            new = set(store.commits(bucket)) - read
            read |= new
            readable = any(path in pq.read_table(file, columns=["path"])["path"].to_pylist() for file in new)
        seconds.append(time.monotonic() - landed)
        time.sleep(pauses.uniform(*_PAUSE))
    return seconds


def _measure_requests(store: _Store, pictures: Sequence[Path]) -> Iterator[Figure]:
    counts = []
    with FaultyStore(store.address) as proxy, _reached_through(proxy.address):
        for batches in _BATCHES:
            bucket = store.new_bucket(pictures, batches * _PER_BATCH)
            proxy.requests.clear()
            run_program("streaming", store.arguments(bucket, "replay", "--max-pictures", str(_PER_BATCH)))
            counts.append(Counter(proxy.requests))
    early, late = (_per_batch(*pair) for pair in pairwise(zip(_BATCHES, counts, strict=True)))
    yield at_most("GETs per picture", late["GET input"] / _PER_BATCH, 1, "")
    for kind in sorted(early.keys() | late.keys()):
        if kind != "GET input" and max(early[kind], late[kind]) > 0:
            yield Figure(f"requests per micro-batch, {kind}, early / late", f"{early[kind]:.1f} / {late[kind]:.1f}")
    total = [sum(costs.values()) - costs["GET input"] for costs in (early, late)]
    yield Figure("requests per micro-batch, all but pictures, early / late", f"{total[0]:.1f} / {total[1]:.1f}")


def _measure_idle(store: _Store, pictures: Sequence[Path]) -> Iterator[Figure]:
    """A stream by events that has nothing to do."""
    with FaultyStore(store.address) as proxy, moto() as queues, _reached_through(proxy.address):
        bucket = store.new_bucket(pictures, 1)
        queue = _Queue(queues, bucket.name)
        following = ["--discovery", "events", "--queue", queue.url]
        stream = start("streaming", store.arguments(bucket, "run", *following), AWS_ENDPOINT_URL_SQS=queues)
        try:
            while not store.commits(bucket):  # of the picture that was there
                time.sleep(0.1)
            time.sleep(_SETTLING)
            proxy.requests.clear()
            time.sleep(_IDLE)
            counted = Counter(proxy.requests)
        finally:
            stream.terminate()
            stream.communicate()
    for kind, count in sorted(counted.items()):
        yield Figure(f"requests of an idle stream a minute, {kind}", f"{count * 60 / _IDLE:.1f}")


def _per_batch(few: tuple[int, Counter[str]], many: tuple[int, Counter[str]]) -> defaultdict[str, float]:
    kinds = many[1].keys() | few[1].keys()
    return defaultdict(float, {kind: (many[1][kind] - few[1][kind]) / (many[0] - few[0]) for kind in kinds})


if __name__ == "__main__":
    print_figures(measure())
