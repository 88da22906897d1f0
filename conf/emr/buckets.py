"""The buckets of a stack: what is in them, what that costs, and how all of it is deleted."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from conf.emr.permissions import PERMISSIONS
from conf.emr.stack import Stack
from conf.errors import RefusedError
from conf.failures import code_of
from conf.plural import plural

_DELETERS = 8  # each with up to 1,000 objects under way
_AHEAD = 4 * _DELETERS  # pages, so that a listing of millions does not pile up


def are_there(stack: Stack) -> bool:
    """Whether there is one of them, which a stack that is gone may have left."""
    return any(_is_there(stack, bucket) for bucket in stack.buckets().values())


def _is_there(stack: Stack, bucket: str) -> bool:
    try:
        stack.client("s3").head_bucket(Bucket=bucket)
    except ClientError as error:
        if code_of(error) in ("404", "NoSuchBucket"):
            return False
        raise
    return True


def empty(stack: Stack) -> int:
    """Delete every object of every bucket, with all former versions, and show how far it is; returns how many.

    Raises:
        RefusedError: S3 does not delete one of them.
    """
    deleted = 0
    waiting: deque[Future[int]] = deque()
    with ThreadPoolExecutor(_DELETERS) as deleters:
        try:
            for bucket, names in _all_versions(stack):
                waiting.append(deleters.submit(_delete, stack, bucket, names))
                while len(waiting) >= _AHEAD:
                    deleted += waiting.popleft().result()
                    _tell(deleted)
            while waiting:
                deleted += waiting.popleft().result()
                _tell(deleted)
            _tell(deleted, end="\n")
        finally:
            for left in waiting:
                left.cancel()
    return deleted


def _all_versions(stack: Stack) -> Iterator[tuple[str, list[dict[str, str]]]]:
    pages = stack.client("s3").get_paginator("list_object_versions")
    for bucket in stack.buckets().values():
        try:
            for page in pages.paginate(Bucket=bucket):
                listed = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
                if listed:
                    yield bucket, [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in listed]
        except ClientError as error:
            if code_of(error) != "NoSuchBucket":
                raise


def _delete(stack: Stack, bucket: str, names: list[dict[str, str]]) -> int:
    answer = stack.client("s3").delete_objects(Bucket=bucket, Delete={"Objects": names, "Quiet": True})
    _check_all_deleted(bucket, answer)
    return len(names)


def _check_all_deleted(bucket: str, answer: Mapping[str, Any]) -> None:
    for error in answer.get("Errors", ()):
        raise RefusedError(
            f"s3://{bucket}/{error['Key']} cannot be deleted ({error['Code']}); "
            f"{PERMISSIONS['DeleteObjects']} are needed"
        )


def _tell(deleted: int, end: str = "") -> None:
    """A line that overwrites itself, for a person."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\rdeleted {plural(deleted, 'object')}{end}")
        sys.stderr.flush()


def sizes(stack: Stack) -> dict[str, float]:
    """Bytes by bucket, as S3 counts them once a day; a bucket that it has not counted yet is left out.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/metrics-dimensions.html
    """
    now = datetime.now(UTC)
    buckets = [*stack.buckets().values()]
    queries = [
        {
            "Id": f"bucket{number}",
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/S3",
                    "MetricName": "BucketSizeBytes",
                    "Dimensions": [
                        {"Name": "BucketName", "Value": bucket},
                        {"Name": "StorageType", "Value": "StandardStorage"},
                    ],
                },
                "Period": 86400,
                "Stat": "Average",
            },
        }
        for number, bucket in enumerate(buckets)
    ]
    answer = stack.client("cloudwatch").get_metric_data(
        MetricDataQueries=queries, StartTime=now - timedelta(days=3), EndTime=now
    )
    newest = {result["Id"]: result["Values"][0] for result in answer["MetricDataResults"] if result["Values"]}
    return {bucket: newest[f"bucket{number}"] for number, bucket in enumerate(buckets) if f"bucket{number}" in newest}
