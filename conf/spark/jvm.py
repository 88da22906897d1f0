"""Options and environment variables by which the JVM of a local Spark sees this machine as Python does.

They cover file names, the machine's address, the user, certificates and keys, so that the two halves of one program
agree. None of this applies to the nodes of a cluster, which their administrators have set up.
"""

from __future__ import annotations

import atexit
import os
import pwd
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from conf.aws.connection import ca_bundle
from conf.aws.credentials import CREDENTIALS_PROVIDER
from conf.aws.trust import write_trust_store
from conf.spark.java import utf8_locale
from conf.temporary import temporary_folder

_NO_CACHE = "spark.hadoop.fs.file.impl.disable.cache"

Environment = Mapping[str, str | None]
"""Variables to set, and with None those to leave out."""

S3_PROPERTIES = {"spark.hadoop.fs.s3a.aws.credentials.provider": CREDENTIALS_PROVIDER}
"""S3A asks this process for credentials, which boto3 has from any of its sources. It goes with `serve_credentials`."""


def java_option(name: str, value: object) -> str:
    """A system property as Spark's launcher reads it, whatever the value holds."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'-D{name}="{escaped}"'


def environment() -> Environment:
    """The environment of every JVM of a local Spark, which Python workers inherit.

    It has an address because Spark otherwise resolves the host name, which may fail.
    """
    return {**utf8_locale(), "SPARK_LOCAL_IP": "127.0.0.1", **({} if _user() else {"SPARK_USER": _nameless()})}


def machine_options(folder: Path) -> list[str]:
    """Java options by which it finds a user and a home: `folder`, where the user has none that can be written to."""
    user = _user()
    options = [] if user else [java_option("user.name", _nameless())]
    if user is None or not os.access(user.pw_dir, os.W_OK | os.X_OK):
        options.append(java_option("user.home", folder))
    return options


def trust_options(java: Path) -> list[str]:
    """Options by which the Java of a JAVA_HOME trusts the certificates that boto3 trusts, if they are not the usual."""
    if not (bundle := ca_bundle()):
        return []
    store = write_trust_store(bundle, java)
    return [java_option("javax.net.ssl.trustStore", store), java_option("javax.net.ssl.trustStoreType", "JKS")]


@cache
def local_folder() -> dict[str, str]:
    """The property that puts Spark's temporary files where Python's are, because Java ignores TMPDIR.

    They are in a folder of this process, which is there until its end. Call it before Java is started, whose end is to
    come first.

    Raises:
        StorageError: it cannot be made.
    """
    if "," in tempfile.gettempdir():  # the property is a list
        return {}
    until_exit = ExitStack()
    atexit.register(until_exit.close)
    return {"spark.local.dir": until_exit.enter_context(temporary_folder("picture-features-spark-"))}


def log_in(jvm: Any) -> None:
    """Log in to Hadoop if this user has no name in its operating system, which Hadoop would refuse.

    https://github.com/apache/hadoop/blob/rel/release-3.4.2/hadoop-common-project/hadoop-common/src/main/java/org/apache/hadoop/security/UserGroupInformation.java
    """
    if not _user():
        users = jvm.org.apache.hadoop.security.UserGroupInformation
        users.setLoginUser(users.createRemoteUser(_nameless()))


def launch_properties() -> dict[str, str]:
    """Spark properties until `log_in` is done: Hadoop's cache of file systems would ask for the user at once."""
    return {} if _user() else {_NO_CACHE: "true"}


def session_properties() -> dict[str, str]:
    """The properties that revert `launch_properties`."""
    return {} if _user() else {_NO_CACHE: "false"}


@contextmanager
def in_environment(changes: Environment) -> Iterator[None]:
    """Give these variables to the processes that are started inside the context."""
    former = {name: os.environ.get(name) for name in changes}
    _change(changes)
    try:
        yield
    finally:
        _change(former)


def _change(changes: Environment) -> None:
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _user() -> pwd.struct_passwd | None:
    """The password entry of this process's user; None if it has none, as often in containers."""
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None


def _nameless() -> str:
    return str(os.getuid())
