"""What tests on S3 share: a new bucket with places for everything, and its tables."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto import mock_aws

from conf.aws.connection import S3Connection, forget_clients
from streaming.__main__ import main
from tests.support.servers import CREDENTIALS
from tests.support.streams import ONE_TASK


@dataclass(frozen=True)
class Bucket:
    """A new bucket with places for everything."""

    name: str
    s3: Any

    def uri(self, prefix: str) -> str:
        return f"s3a://{self.name}/{prefix}"

    def arguments(self, verb: str, *more: str) -> list[str]:
        """The command line of a verb of the stream here, with one task at a time."""
        places = [word for place in ("input", "models", "output") for word in (f"--{place}", self.uri(place))]
        return [verb, *places, *ONE_TASK, "--log-format", "text", *more]

    def replay(self, *more: str) -> int:
        """Replay in this process; returns the exit code."""
        return main(self.arguments("replay", *more))

    def put(self, files: list[Path], folder: str = "apple") -> list[str]:
        """Upload pictures; returns their paths."""
        for file in files:
            self.s3.upload_file(str(file), self.name, f"input/{folder}/{file.name}")
        return [f"s3://{self.name}/input/{folder}/{file.name}" for file in files]

    def put_tree(self, folder: Path, prefix: str) -> None:
        """Upload all files below a folder."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.s3.upload_file(str(file), self.name, f"{prefix}/{file.relative_to(folder)}")

    def keys(self, prefix: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def rows(self, table: str = "features") -> pa.Table:
        """All rows of a table, read by boto3 and pyarrow alone."""
        bodies = [
            self.s3.get_object(Bucket=self.name, Key=key)["Body"].read()
            for key in self.keys(f"output/{table}/")
            if key.endswith(".parquet")
        ]
        return pa.concat_tables(pq.read_table(pa.BufferReader(body)) for body in bodies)

    def counted(self) -> Counter[str]:
        return Counter(path for table in ("features", "quarantine") for path in self.rows(table)["path"].to_pylist())

    def has(self, paths: Iterable[str]) -> bool:
        return self.committed() > 0 and self.counted().keys() >= set(paths)

    def featurized(self) -> list[str]:
        return sorted(self.rows()["path"].to_pylist())

    def embedded(self) -> list[str]:
        return sorted(self.rows("embeddings")["path"].to_pylist())

    def committed(self) -> int:
        return sum("/empty.parquet" not in key for key in self.keys("output/features/"))


def reach_through(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point this process to another address of the store, such as a proxy's."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    forget_clients()


@contextmanager
def new_bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket in the store at an address, to which the AWS environment of this process points meanwhile."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    with _created(monkeypatch) as bucket:
        yield bucket


@contextmanager
def new_bucket_in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket in moto, without a server: a request takes a millisecond, and no other process sees it."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws(), _created(monkeypatch) as bucket:
        yield bucket


@contextmanager
def _created(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    name = f"pictures-{uuid.uuid4().hex[:12]}"
    client = S3Connection().client()
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": CREDENTIALS["AWS_REGION"]})
    yield Bucket(name, client)
    forget_clients()
