"""Try: from a package to the rows of 100 pictures in S3 on Serverless, and down again, with what it was billed for."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from conf.emr import deployment, destruction, serverless
from conf.emr.application import SETTINGS, bucket_and_key, build_folder, check_built, locations_of, on_cluster
from conf.emr.cost import PRICES, read_prices, serverless_usd
from conf.emr.options import OfStackWithConsent, add_consent, add_platform, add_stack, agreed, stack_of
from conf.emr.package import Platform
from conf.emr.serverless import Application
from conf.emr.spark_submit import CONVERTED_BACKBONE, Locations
from conf.emr.stack import Stack
from conf.emr.watching import Follower
from conf.errors import AppError, SettingsError
from conf.settings import Settings

_PICTURES = 100
_VCPUS, _GIGABYTES = 10, 24  # a driver and two executors
_LEAST_MINUTES = 5  # that a job may be limited to
_UPLOADS = 16


@dataclass(frozen=True)
class TryOptions(OfStackWithConsent):
    """The options of try.

    Attributes:
        platform: the processors of the nodes.
        pictures: a folder; None generates some.
        max_usd: no job is started that could exceed this.
    """

    platform: Platform
    pictures: Path | None
    max_usd: float


def add_try_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of try."""
    add_stack(parser, "picture-features-try")
    add_platform(parser, default="aarch64")
    parser.add_argument("--pictures", metavar="FOLDER", type=Path, help="Yours. Default: 100 that are generated.")
    parser.add_argument(
        "--max-usd", metavar="N", type=float, default=2.0, help="Start no job that could exceed this. Default: 2."
    )
    add_consent(parser)


@dataclass
class _Bill:
    """The money that jobs may still cost, and have cost.

    Attributes:
        most: USD.
        prices: as `read_prices` gives them.
        spent: USD.
    """

    most: float
    prices: Mapping[str, Any]
    spent: float = 0.0

    def minutes(self) -> int:
        """The minutes that a job may run, if it takes all that the application has.

        Raises:
            SettingsError: less than any job takes.
        """
        an_hour = serverless_usd(_VCPUS, _GIGABYTES, self.prices)
        minutes = int((self.most - self.spent) / an_hour * 60)
        if minutes < _LEAST_MINUTES:
            least = self.spent + an_hour * _LEAST_MINUTES / 60
            raise SettingsError(f"--max-usd: {self.most:g} is not enough for the next job; give {least:.2f} or more")
        return min(minutes, serverless.BATCH_MINUTES)

    def add(self, run: Mapping[str, Any], seconds: float) -> None:
        """Count what a job was billed for, or, where EMR does not say, all that the application may have at once.

        Args:
            run: what EMR says of it.
            seconds: since it was started.
        """
        hours = seconds / 3600
        most = {"vCPUHour": _VCPUS * hours, "memoryGBHour": _GIGABYTES * hours}
        billed = run.get("billedResourceUtilization") or run.get("totalResourceUtilization") or most
        self.spent += serverless_usd(billed.get("vCPUHour", 0.0), billed.get("memoryGBHour", 0.0), self.prices)


def try_(settings: Settings, options: TryOptions) -> str | None:
    """Deploy under a name of its own, fit, replay, count the rows, and delete everything; returns what it cost.

    Raises:
        AppError: a step failed; everything was deleted all the same.
    """
    data = stack_of(settings, options)
    folder = build_folder(options.platform)
    check_built(folder)
    bill = _Bill(options.max_usd, read_prices(PRICES))
    bill.minutes()
    if not (folder / CONVERTED_BACKBONE).is_file():
        raise SettingsError(
            f"{folder / CONVERTED_BACKBONE} is missing; python -m batch_fit convert --to {folder / CONVERTED_BACKBONE}"
        )
    if data.describe() is not None:
        raise SettingsError(
            f"--stack: {data.name!r} is there already; {data.command('destroy', '--data')} deletes it, or give another "
            "name"
        )
    plan = (
        f"make {data.full_name} and {data.name}-serverless in {data.region}, fit a model on pictures, replay them, and "
        f"delete both stacks for ever; the jobs cost at most {bill.most:g} USD"
    )
    if not agreed(plan, options):
        return None
    began = time.monotonic()
    try:
        rows = _run(settings, data, options, bill)
    finally:
        sys.stderr.write(
            f"the jobs cost {bill.spent:.2f} USD by {PRICES.name}; everything is taken down now, and if that is "
            f"interrupted, {data.command('destroy', '--data')} goes on\n"
        )
        everything = destruction.DestroyOptions(
            stack=options.stack, allow_non_eu=options.allow_non_eu, yes=True, dry_run=False, compute=None, data=True
        )
        destruction.destroy(settings, everything)
    return (
        f"{rows} rows in {(time.monotonic() - began) / 60:.0f} min; the jobs were billed {bill.spent:.2f} USD by "
        f"{PRICES.name}, S3 and KMS some cents besides; everything is deleted"
    )


def _run(settings: Settings, data: Stack, options: TryOptions, bill: _Bill) -> int:
    size = [f"MaximumVcpus={_VCPUS}", f"MaximumGigabytes={_GIGABYTES}"]
    deployment.deploy(
        settings,
        deployment.DeployOptions(
            stack=options.stack,
            allow_non_eu=options.allow_non_eu,
            yes=True,
            dry_run=False,
            compute="serverless",
            platform=options.platform,
            settings=SETTINGS,
            set=size,
            no_check=False,
        ),
    )
    outputs, compute = data.outputs(), data.sibling("serverless")
    with tempfile.TemporaryDirectory() as folder:
        _upload(data, options.pictures or _generated(Path(folder)), outputs["Input"])
    there = compute.outputs()
    application = Application(compute, there["ApplicationId"])
    locations = locations_of(data, outputs, options.platform)
    look = Follower(data, outputs["LogGroupName"])
    for verb, more in (("fit", ["--k", "16"]), ("replay", [])):
        _step(application, verb, _request(verb, locations, there["JobRoleArn"], more, bill), look, bill)
    return _rows(data, outputs["Output"])


def _request(verb: str, locations: Locations, role: str, more: list[str], bill: _Bill) -> dict[str, Any]:
    request = serverless.job(verb, on_cluster(SETTINGS), locations, role, more)
    return {**request, "executionTimeoutMinutes": bill.minutes()}


def _step(application: Application, verb: str, request: Mapping[str, Any], look: Follower, bill: _Bill) -> None:
    sys.stderr.write(f"{verb}: for {request['executionTimeoutMinutes']} minutes at most\n")
    began = time.monotonic()
    job = application.start(request)
    try:
        application.wait(job, look)
    finally:
        bill.add(application.run(job), time.monotonic() - began)


def _generated(folder: Path) -> Path:
    """Pictures of fruit, in a folder for each kind."""
    words = [sys.executable, "-m", "tests.support.samples", str(folder), "--pictures", str(_PICTURES), "--broken", "0"]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        raise AppError(f"try: no pictures could be generated: {made.stderr.strip().splitlines()[-1:]}; give --pictures")
    return folder


def _upload(data: Stack, pictures: Path, to: str) -> None:
    """Put a folder of pictures below the input.

    Raises:
        SettingsError: there are none.
    """
    files = sorted(file for file in pictures.rglob("*") if file.is_file())
    if not files:
        raise SettingsError(f"--pictures: {pictures} has no files")
    s3 = data.client("s3")
    with ThreadPoolExecutor(_UPLOADS) as pool:
        places = [bucket_and_key(to, file.relative_to(pictures).as_posix()) for file in files]
        list(pool.map(lambda file, place: s3.upload_file(str(file), *place), files, places))


def _rows(data: Stack, output: str) -> int:
    """The number of rows of features, by the footers of their files."""
    s3 = data.client("s3")
    bucket, prefix = bucket_and_key(output, "features/")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    files = [entry["Key"] for page in pages for entry in page.get("Contents", ()) if entry["Key"].endswith(".parquet")]
    bodies = (s3.get_object(Bucket=bucket, Key=file)["Body"].read() for file in files)
    return sum(pq.read_metadata(io.BytesIO(body)).num_rows for body in bodies)
