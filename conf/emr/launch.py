"""Spark-submit starts this on EMR: `launch.py MODULE ARGUMENTS...` is `python -m MODULE ARGUMENTS...`.

Spark-submit takes a file, and the programs are packages in the code zip. Of
`spark.files` the documentation of EMR Serverless says that executors find them, and is silent about the driver. There,
the variable LAUNCH_FILES names the objects of S3, by commas, which the driver copies into its folder.
"""

import os
import runpy
import sys


def fetch(uris: list[str]) -> None:
    """Copy these objects of S3 into the working folder."""
    import boto3  # noqa: PLC0415 - of the archive, and needed only here

    s3 = boto3.client("s3", region_name=os.environ.get("AWS_REGION"))  # of which boto3 has another name
    for uri in uris:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        s3.download_file(bucket, key, key.rpartition("/")[2])


if __name__ == "__main__":
    if named := os.environ.get("LAUNCH_FILES"):
        fetch(named.split(","))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
