"""What spark-submit starts: a module of the package, with the files that the driver fetches itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conf.emr.application import SETTINGS
from conf.emr.spark_submit import LAUNCHER
from conf.emr.stack import Stack

FILE = SETTINGS.parent / "emr" / LAUNCHER


def test_a_driver_without_files_beside_it_fetches_them(aws: Stack, tmp_path: Path) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="pictures")
    s3.put_object(Bucket="pictures", Key="application/aarch64/a.json", Body=b'{"a": 1}')
    s3.put_object(Bucket="pictures", Key="application/aarch64/b.json", Body=b"2")
    folder = tmp_path / "driver"
    folder.mkdir()
    base = "s3://pictures/application/aarch64"
    variables = {"LAUNCH_FILES": f"{base}/a.json,{base}/b.json", "AWS_REGION": aws.region}
    words = [sys.executable, str(FILE), "json.tool", "--compact", "a.json"]
    started = subprocess.run(
        words, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    assert started.stdout == '{"a":1}\n'
    assert (folder / "b.json").read_text() == "2"
