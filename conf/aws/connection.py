"""The connection to S3: endpoint, region, retries and timeouts, for boto3 and for Spark.

Credentials are not part of it: boto3 finds them in the order that AWS documents (environment, profile, container,
instance role). The JVM of a local Spark gets boto3's (`conf.aws.credentials`); on a cluster, S3A finds them by itself.
"""

from __future__ import annotations

import ipaddress
import os
import threading
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from conf.aws.silence import SilenceWarning
from conf.errors import SettingsError

if TYPE_CHECKING:  # workers do not need pydantic, nor boto3 as long as no path is on S3
    import boto3
    from botocore.credentials import ReadOnlyCredentials

    from conf.settings import S3Settings

COMMITTER_PROPERTIES = {
    # Tables of batch jobs are written without renames, which S3 does not have. EMR has a committer of its own for that.
    "spark.hadoop.fs.s3a.committer.name": "magic",
    "spark.hadoop.fs.s3a.committer.magic.enabled": "true",
    "spark.sql.sources.commitProtocolClass": "org.apache.spark.internal.io.cloud.PathOutputCommitProtocol",
    "spark.sql.parquet.output.committer.class": "org.apache.spark.internal.io.cloud.BindingParquetOutputCommitter",
}


@dataclass(frozen=True)
class S3Connection:
    """A connection to S3. Small, without secrets, and the same on driver and workers.

    Attributes:
        endpoint: of a store other than AWS, or of PrivateLink; None leaves it to the AWS environment variables.
        region: None leaves it to the AWS environment variables and profile.
        path_style: bucket in the path instead of the host name; None decides by the endpoint.
        attempts: the number of attempts at a request, including the first.
        timeout: seconds without a sign from the store after which a request is retried.
    """

    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    attempts: int = 5
    timeout: float = 20

    @classmethod
    def of(cls, settings: S3Settings) -> S3Connection:
        """The connection in the settings, which stay on the driver."""
        return cls(
            settings.endpoint,
            settings.region,
            settings.path_style,
            settings.attempts,
            settings.timeout.total_seconds(),
        )

    def hasty(self, seconds: float) -> S3Connection:
        """The same connection without retries, and with this timeout for each request."""
        return replace(self, attempts=1, timeout=min(seconds, self.timeout))

    def client(self, service: str = "s3") -> Any:
        """The boto3 client of this process; it may be shared by threads.

        Other services than S3 share region and retries; where they are is left to the AWS environment variables.

        Raises:
            SettingsError: endpoint, region, profile or certificates cannot be used.
        """
        with _making:  # or each of the first sixteen threads would make one
            return _client(self, service)

    def resolved(self) -> S3Connection:
        """The same connection with the values of this environment, for other machines, whose environment may differ."""
        reached = self.client().meta
        endpoint = reached.endpoint_url if self._endpoint_is_custom() else None
        return replace(self, endpoint=endpoint, region=reached.region_name)

    def spark_properties(self) -> dict[str, str]:
        """The properties by which S3A reaches the same store."""
        reached = self.client().meta
        properties = {
            "fs.s3a.endpoint.region": reached.region_name,
            "fs.s3a.aws.credentials.provider": "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",
            "fs.s3a.attempts.maximum": str(self.attempts),
            "fs.s3a.connection.timeout": f"{self.timeout * 1000:.0f}ms",
            "fs.s3a.connection.establish.timeout": f"{self.timeout * 1000:.0f}ms",
            "fs.s3a.retry.limit": "1",  # it multiplies the attempts; the caller retries if the store is gone
        }
        if self._endpoint_is_custom():
            properties |= {
                "fs.s3a.endpoint": reached.endpoint_url,
                "fs.s3a.path.style.access": str(_wants_path_style(self, reached.endpoint_url)).lower(),
                "fs.s3a.connection.ssl.enabled": str(reached.endpoint_url.startswith("https:")).lower(),
            }
        properties |= _proxy_properties(reached.endpoint_url)
        return {f"spark.hadoop.{key}": value for key, value in properties.items()}

    def _endpoint_is_custom(self) -> bool:
        """Whether somebody has named it; it may be one of AWS, like that of PrivateLink in a network of one's own."""
        return self.endpoint is not None or _named_endpoint() is not None


def _named_endpoint() -> str | None:
    """The endpoint of S3 in the AWS environment variables and profile; None leaves it to boto3."""
    from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415 - as in _session

    with _making:
        core = _session()._session  # noqa: SLF001 # boto3 has no name for it
    return cast("str | None", ConfiguredEndpointProvider(core.full_config, core.get_scoped_config(), "s3").provide())


def _proxy_properties(endpoint: str) -> dict[str, str]:
    """Let S3A use the proxy that boto3 takes from HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""
    from botocore.utils import get_environ_proxies  # noqa: PLC0415 - as in _session

    where = urlsplit(endpoint)
    named = get_environ_proxies(endpoint).get(where.scheme)
    if not named:
        return {}
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    parts = {
        "host": proxy.hostname,
        "port": str(proxy.port or (443 if proxy.scheme == "https" else 80)),
        "ssl.enabled": str(proxy.scheme == "https").lower(),
        "username": proxy.username and unquote(proxy.username),
        "password": proxy.password and unquote(proxy.password),
    }
    return {f"fs.s3a.proxy.{name}": value for name, value in parts.items() if value}


AWS_DEFAULTS = S3Connection()
"""The AWS environment variables and profile decide everything."""


def forget_clients() -> None:
    """Drop all clients, after the AWS environment of this process has changed; new ones are made when needed."""
    _client.cache_clear()
    _session.cache_clear()


def credentials() -> ReadOnlyCredentials | None:
    """The credentials with which boto3 signs requests now, refreshed if necessary; None if it finds none."""
    with _making:
        found = _session().get_credentials()
    return found and found.get_frozen_credentials()


def ca_bundle() -> Path | None:
    """The PEM file of the authorities that boto3 trusts; None if that is botocore's own."""
    with _making:
        return _ca_bundle()


def _ca_bundle() -> Path | None:
    """The file that botocore chooses: AWS_CA_BUNDLE, the profile's ca_bundle, REQUESTS_CA_BUNDLE."""
    of_aws = _session()._session.get_config_variable("ca_bundle")  # noqa: SLF001 # boto3 has no name for it
    named = of_aws or os.environ.get("REQUESTS_CA_BUNDLE")
    return Path(named) if named else None


def _check_ca_bundle() -> None:
    """Refuse a bundle that cannot be read; botocore would report that the store does not answer."""
    if bundle := _ca_bundle():
        try:
            bundle.open("rb").close()
        except OSError as error:
            raise SettingsError(f"AWS_CA_BUNDLE: cannot read {bundle}: {error.strerror}") from error


_making = threading.Lock()


@cache
def _session() -> boto3.Session:
    """The session of all clients, so that credentials are found and refreshed once."""
    import boto3  # noqa: PLC0415 - it takes 20 MB in each worker, so not before a path is on S3
    from botocore.session import get_session  # noqa: PLC0415 - as above

    core = get_session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    return boto3.Session(botocore_session=core)


@cache
def _client(connection: S3Connection, service: str) -> Any:
    from botocore.config import Config  # noqa: PLC0415 - as in _session
    from botocore.exceptions import InvalidRegionError, ProfileNotFound  # noqa: PLC0415 - as above

    config = Config(
        retries={"mode": "standard", "total_max_attempts": connection.attempts},  # backs off with jitter
        connect_timeout=connection.timeout,
        read_timeout=connection.timeout,
        max_pool_connections=64,
    )
    # boto3 reads AWS_DEFAULT_REGION only; every other SDK of AWS reads AWS_REGION.
    region = connection.region or os.environ.get("AWS_REGION")
    endpoint = connection.endpoint if service == "s3" else None  # a store of one's own has no other services
    try:
        session = _session()
        _check_ca_bundle()
        client = session.client(service, region_name=region, endpoint_url=endpoint, config=config)
        if service == "s3" and _wants_path_style(connection, client.meta.endpoint_url):
            config = config.merge(Config(s3={"addressing_style": "path"}))
            client = session.client(service, region_name=region, endpoint_url=endpoint, config=config)
    except (InvalidRegionError, ProfileNotFound, ValueError) as error:
        raise SettingsError(
            f"{error}; check s3.endpoint and s3.region, or AWS_ENDPOINT_URL, AWS_REGION and AWS_PROFILE"
        ) from error
    warning = SilenceWarning(client.meta.endpoint_url, connection.attempts, connection.timeout)
    client.meta.events.register(f"needs-retry.{service}", warning)
    client.meta.events.register_last(f"before-call.{service}", _send_at_once)
    return client


def _send_at_once(params: dict[str, Any], **_: Any) -> None:
    """Drop the question whether a PUT may come (Expect: 100-continue): it costs a round trip, and ours are small."""
    params["headers"].pop("Expect", None)


def _parse_time(value: Any) -> datetime:
    """A time in a response. botocore's own parser takes two thirds of the time of a listing."""
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
