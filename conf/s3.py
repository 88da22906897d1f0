"""How everything here reaches S3: one description, from which each library gets what it needs.

It owns the connection: endpoint, region, retries, time-outs; it must not know what is stored. Credentials are not part
of it: boto3 and S3A find them by themselves, in the order that AWS documents (environment, profile, instance role).
"""

from __future__ import annotations

import ipaddress
import os
import threading
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from conf.errors import SettingsError

if TYPE_CHECKING:  # workers have no need of pydantic
    from conf.settings import S3Settings

CHECKPOINT_PROPERTIES = {
    # One atomic PUT per file, where the default would rename. It cannot be used on a local checkpoint.
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.internal.io.cloud.AbortableStreamBasedCheckpointFileManager"
    )
}

COMMITTER_PROPERTIES = {
    # Tables of batch jobs are written without renames, which S3 does not have.
    "spark.hadoop.fs.s3a.committer.name": "magic",
    "spark.hadoop.fs.s3a.committer.magic.enabled": "true",
    "spark.sql.sources.commitProtocolClass": "org.apache.spark.internal.io.cloud.PathOutputCommitProtocol",
    "spark.sql.parquet.output.committer.class": "org.apache.spark.internal.io.cloud.BindingParquetOutputCommitter",
}

_PACKAGES = (
    "org.apache.hadoop:hadoop-aws:3.4.2",
    "org.apache.spark:spark-hadoop-cloud_2.13:4.1.1",
    *(
        f"software.amazon.awssdk:{module}:2.29.52"
        for module in ("s3", "s3-transfer-manager", "sts", "apache-client", "netty-nio-client")
    ),
)
_EXCLUDED = (
    "software.amazon.awssdk:bundle",
    "org.apache.hadoop:hadoop-azure",
    "org.apache.hadoop:hadoop-azure-datalake",
    "org.apache.hadoop:hadoop-gcp",
    "org.apache.hadoop:hadoop-aliyun",
    "org.apache.hadoop:hadoop-cos",
    "org.apache.hadoop:hadoop-huaweicloud",
    "org.apache.hadoop:hadoop-tos",
    "org.apache.hadoop:hadoop-openstack",
    "org.apache.hadoop:hadoop-cloud-storage",
)

LOCAL_JARS = {"spark.jars.packages": ",".join(_PACKAGES), "spark.jars.excludes": ",".join(_EXCLUDED)}
"""Spark's client of S3, 14 MB from Maven Central, for a local Spark; a cluster has it."""


@dataclass(frozen=True)
class S3Connection:
    """How to reach S3. Small, without secrets, and the same on driver and workers.

    Attributes:
        endpoint: of a store other than AWS; None leaves it to the AWS environment variables.
        region: None leaves it to the AWS environment variables and profile.
        path_style: bucket in the path instead of the host name; None decides by the endpoint.
        attempts: how often a request is tried in all.
        timeout: seconds without a sign from the store after which a request is tried again.
    """

    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    attempts: int = 5
    timeout: float = 20

    @classmethod
    def of(cls, settings: S3Settings) -> S3Connection:
        """From the settings, which stay on the driver."""
        return cls(
            settings.endpoint,
            settings.region,
            settings.path_style,
            settings.attempts,
            settings.timeout.total_seconds(),
        )

    def client(self, service: str = "s3") -> Any:
        """The boto3 client of this process; it may be shared by threads.

        Other services than S3 share region and retries; where they are is left to the AWS environment variables.

        Raises:
            SettingsError: endpoint, region or profile are none.
        """
        with _making:  # or the first sixteen threads would make one each
            return _client(self, service)

    def resolved(self) -> S3Connection:
        """The same without a look into the environment, for other machines: theirs may differ."""
        reached = self.client().meta
        endpoint = reached.endpoint_url if self._endpoint_is_custom() else None
        return replace(self, endpoint=endpoint, region=reached.region_name)

    def spark_properties(self) -> dict[str, str]:
        """What S3A needs to reach the same store, and Spark to write tables to it without renames."""
        reached = self.client().meta
        properties = {
            "fs.s3a.endpoint.region": reached.region_name,
            "fs.s3a.aws.credentials.provider": "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",
            "fs.s3a.attempts.maximum": str(self.attempts),
            "fs.s3a.connection.timeout": f"{self.timeout * 1000:.0f}ms",
        }
        if self._endpoint_is_custom():
            properties |= {
                "fs.s3a.endpoint": reached.endpoint_url,
                "fs.s3a.path.style.access": str(_wants_path_style(self, reached.endpoint_url)).lower(),
                "fs.s3a.connection.ssl.enabled": str(reached.endpoint_url.startswith("https:")).lower(),
            }
        return {f"spark.hadoop.{key}": value for key, value in properties.items()} | COMMITTER_PROPERTIES

    def _endpoint_is_custom(self) -> bool:
        return not urlsplit(self.client().meta.endpoint_url).netloc.endswith((".amazonaws.com", ".amazonaws.com.cn"))


AWS_DEFAULTS = S3Connection()
"""The AWS environment variables and profile decide everything."""


def forget_clients() -> None:
    """Make the clients anew when they are next needed: after the AWS environment of this process has changed."""
    _client.cache_clear()


_making = threading.Lock()


@cache
def _client(connection: S3Connection, service: str) -> Any:
    # boto3 is not imported before a path is on S3: it takes 20 MB in each worker.
    import boto3  # noqa: PLC0415 - see above
    from botocore.config import Config  # noqa: PLC0415 - as above
    from botocore.exceptions import InvalidRegionError, ProfileNotFound  # noqa: PLC0415 - as above
    from botocore.session import get_session  # noqa: PLC0415 - as above

    config = Config(
        retries={"mode": "standard", "total_max_attempts": connection.attempts},  # backs off with jitter
        connect_timeout=connection.timeout,
        read_timeout=connection.timeout,
        max_pool_connections=64,
    )
    core = get_session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    # boto3 reads AWS_DEFAULT_REGION only; every other SDK of AWS reads AWS_REGION.
    region = connection.region or os.environ.get("AWS_REGION")
    endpoint = connection.endpoint if service == "s3" else None  # a store of one's own has no other services
    try:
        session = boto3.Session(botocore_session=core)
        client = session.client(service, region_name=region, endpoint_url=endpoint, config=config)
        if service == "s3" and _wants_path_style(connection, client.meta.endpoint_url):
            config = config.merge(Config(s3={"addressing_style": "path"}))
            client = session.client(service, region_name=region, endpoint_url=endpoint, config=config)
    except (InvalidRegionError, ProfileNotFound, ValueError) as error:
        raise SettingsError(
            f"{error}; check s3.endpoint and s3.region, or AWS_ENDPOINT_URL, AWS_REGION and AWS_PROFILE"
        ) from error
    return client


def _parse_time(value: Any) -> datetime:
    """A time of an answer. botocore's own way takes two thirds of the time of a listing."""
    of_listings, of_headers = datetime.fromisoformat, parsedate_to_datetime
    for parse in (of_listings, of_headers) if isinstance(value, str) else ():
        try:
            return parse(value)
        except ValueError:
            continue
    from botocore.utils import parse_timestamp  # noqa: PLC0415 - part of botocore, as above

    return cast("datetime", parse_timestamp(value))


def _wants_path_style(connection: S3Connection, endpoint: str) -> bool:
    if connection.path_style is not None:
        return connection.path_style
    host = urlsplit(endpoint).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True
