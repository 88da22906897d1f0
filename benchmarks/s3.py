"""The stream on S3: what latency of the store costs, how soon a row can be read, and which requests are made.

    python -m benchmarks.s3

The store is versitygw on loopback; toxiproxy delays its answers. Steady state is counted from the first commit to the
last, by the times of the files in versitygw's folder.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import CORES, INTERVAL, Figure, at_least, at_most, new_place, print_figures, run_program
from conf.s3 import S3Connection
from tests.buckets import Bucket
from tests.samples import write_samples
from tests.servers import CREDENTIALS, FaultyStore, toxiproxy, versitygw_on
from tests.streams import Place, start

_ROUNDS = 2
_STEADY_PICTURES = 6000
_DELAYS = (0.0, 0.01, 0.03, 0.1)
_TARGET_DELAY = 0.03
_WARM_UP, _LANDINGS = 10, 60
_PAUSE = (0.3, 1.5)  # seconds
_BATCHES = (5, 25)  # the difference is what a micro-batch costs
_PER_BATCH = 20


def measure() -> Iterator[Figure]:
    """Throughput, latency, requests."""
    os.environ.update(CREDENTIALS)
    with new_place() as place, tempfile.TemporaryDirectory() as folder, versitygw_on(Path(folder)) as address:
        pictures = write_samples(place.root / "pictures", 2000, broken=0).pictures
        store = _Store(address, Path(folder), place)
        yield from _measure_throughput(store, pictures)
        yield from _measure_latency(store, pictures)
        yield from _measure_requests(store, pictures)


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

    def commits(self, bucket: Bucket) -> list[Path]:
        files = (self._folder / bucket.name).glob("output/features/date=*/2*.parquet")
        return sorted(files, key=lambda file: file.stat().st_mtime)


_MASTER = ("--master", f"local[{CORES},4]")


@contextmanager
def _reached_through(address: str) -> Iterator[None]:
    os.environ["AWS_ENDPOINT_URL"] = address
    try:
        yield
    finally:
        del os.environ["AWS_ENDPOINT_URL"]


def _measure_throughput(store: _Store, pictures: Sequence[Path]) -> Iterator[Figure]:
    rates: dict[float, list[float]] = {delay: [] for delay in _DELAYS}
    with toxiproxy(store.address) as proxy, _reached_through(proxy.address):
        for _ in range(_ROUNDS):
            for delay in _DELAYS:
                proxy.delay(delay)
                bucket = store.new_bucket(pictures, _STEADY_PICTURES)
                run_program("streaming", store.arguments(bucket, "replay"))
                first, *others = store.commits(bucket)
                seconds = others[-1].stat().st_mtime - first.stat().st_mtime
                rates[delay].append(sum(pq.read_metadata(file).num_rows for file in others) / seconds)
    yield Figure("replay on S3, steady state", f"{median(rates[0.0]):.0f}/s")
    for delay in _DELAYS[1:]:
        ratio = median(slow / fast for slow, fast in zip(rates[delay], rates[0.0], strict=True))
        what = f"replay with {delay * 1000:.0f} ms on each request over none"
        yield at_least(what, ratio, 0.95) if delay == _TARGET_DELAY else Figure(what, f"{ratio:.2f}x")


def _measure_latency(store: _Store, pictures: Sequence[Path]) -> Iterator[Figure]:
    with toxiproxy(store.address) as proxy, _reached_through(proxy.address):
        for delay in (0.0, _TARGET_DELAY):
            proxy.delay(delay)
            bucket = store.new_bucket(pictures, 1)
            stream = start("streaming", store.arguments(bucket, "run", "--interval", INTERVAL))
            try:
                seconds = _latencies(store, bucket, pictures)[_WARM_UP:]
            finally:
                stream.terminate()
                stream.communicate()
            p50, p95 = np.percentile(seconds, [50, 95])
            what = f"landed -> readable on S3 by listing, {delay * 1000:.0f} ms on each request"
            yield at_most(f"{what}, p50 of {len(seconds)}", float(p50), 1.5, " s")
            yield at_most(f"{what}, p95", float(p95), 3, " s")


def _latencies(store: _Store, bucket: Bucket, pictures: Sequence[Path]) -> list[float]:
    pauses = random.Random(0)
    seconds: list[float] = []
    read: set[Path] = set()
    while not store.commits(bucket):  # of the picture that was there
        time.sleep(0.1)
    for number, picture in enumerate(pictures[: _WARM_UP + _LANDINGS]):
        path = f"s3://{bucket.name}/input/landing/{number}.jpg"
        bucket.s3.upload_file(str(picture), bucket.name, path.removeprefix(f"s3://{bucket.name}/"))
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
    few, many = counts
    between = _BATCHES[1] - _BATCHES[0]
    pictures_between = between * _PER_BATCH
    yield at_most("GETs per picture", (many["GET input"] - few["GET input"]) / pictures_between, 1, "")
    for kind in sorted(many.keys() | few.keys()):
        if kind != "GET input" and many[kind] > few[kind]:
            yield Figure(f"requests per micro-batch, {kind}", f"{(many[kind] - few[kind]) / between:.1f}")


if __name__ == "__main__":
    print_figures(measure())
