"""Reconcile where input and output are in a bucket."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest

from conf.aws.connection import AWS_DEFAULTS
from conf.uris import resolve
from streaming.operate import in_process, on_spark, reconcile
from streaming.output import known, manifests, requests
from streaming.storage.folder import Folder, StoredPicture
from streaming.storage.locations import open_folder
from tests.support.buckets import Bucket, new_bucket
from tests.support.reconciling import ODD, Asked, counts_in, look_once
from tests.support.tenures import LooseTenure


def _differ(bucket: Bucket) -> tuple[str, Folder]:
    """An input and an output that differ: folded and not."""
    for name in [*ODD, "same.jpg"]:
        bucket.s3.put_object(Bucket=bucket.name, Key=f"input/{name}", Body=name.encode())
    source, output = resolve(bucket.uri("input")), open_folder(bucket.uri("output"), AWS_DEFAULTS)
    look_once(source, output)
    known.fold(LooseTenure(output), manifests.manifest_ids(output)[:2])
    for name in ("a b/é/new %+#.jpg", "new/1.jpg"):
        bucket.s3.put_object(Bucket=bucket.name, Key=f"input/{name}", Body=b"new")
    bucket.s3.put_object(Bucket=bucket.name, Key="input/same.jpg", Body=b"emas.jpg")
    bucket.s3.delete_object(Bucket=bucket.name, Key="input/top=.jpg")
    return source, output


def test_reconcile_on_s3(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything in a bucket: folded and not, found, requested once, and known from then on."""
    source, output = _differ(bucket)
    ask = Asked(bucket.uri("input"), bucket.uri("output"), capsys)
    answer = ask("--enqueue")
    assert counts_in(answer) == {"listed": 8, "missed": 2, "changed": 1, "gone": 1}
    assert answer["missed_examples"] == [f"{source}/a b/é/new %+#.jpg", f"{source}/new/1.jpg"]
    assert [changed["path"] for changed in answer["changed_examples"]] == [f"{source}/same.jpg"]
    assert answer["requests"] == requests.request_ids(output)
    look_once(source, output)
    assert requests.request_ids(output) == []
    assert counts_in(ask()) == {"listed": 8, "changed": 1, "gone": 1}


@pytest.mark.usefixtures("jvm")
def test_spark_finds_on_s3_what_this_process_finds(
    moto_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where an output knows more pictures than this process compares, of another input."""
    with new_bucket(moto_address, monkeypatch) as bucket:
        _, output = _differ(bucket)
        ask = Asked(bucket.uri("input"), bucket.uri("output"), capsys)
        here = ask("--enqueue")
        for request in here["requests"]:
            requests.delete_request(output, request)
        now = datetime.now(UTC)
        others = [StoredPicture(f"s3://other/{number}.jpg", 1, now) for number in range(20)]
        known.fold(LooseTenure(output), [manifests.append_manifest(output, others, now)])
        monkeypatch.setattr(in_process, "LIMIT", len(others))
        by_spark = Mock(wraps=on_spark.compare_on_spark)
        monkeypatch.setattr(reconcile, "compare_on_spark", by_spark)
        assert ask("--enqueue", "--log-folder", str(tmp_path)) == here
        assert by_spark.called
