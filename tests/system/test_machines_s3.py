"""Python and Java reach a store alike: the same credentials, wherever boto3 has them from, and the same authorities."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.errors import PySparkException

from conf.aws.connection import credentials, forget_clients
from conf.aws.credentials import serve_credentials
from conf.aws.trust import write_trust_store
from conf.errors import SettingsError, StorageError
from conf.spark.failures import explain_failure
from conf.spark.java import find_java
from streaming.__main__ import main
from tests.support.buckets import new_bucket
from tests.support.servers import moto_over_tls, write_certificates
from tests.support.streams import end, start
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("programs")

_KEYS = {"AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "secret-of-the-process", "SessionToken": "token"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server whose certificate is of a private authority, which AWS_CA_BUNDLE names."""
    with moto_over_tls(tmp_path) as (address, authority):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        yield address
    forget_clients()


@pytest.fixture
def _process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials but those of a program that a profile names, as single sign-on often does."""
    ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps({"Version": 1, "Expiration": ends, **_KEYS}))
    program = f"{sys.executable} -c {shlex.quote('import sys; print(open(sys.argv[1]).read())')} {answer}"
    config = tmp_path / "config"
    config.write_text(f"[profile work]\nregion = eu-west-3\ncredential_process = {program}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    forget_clients()


def test_a_private_authority_and_a_credential_process_count_for_java_too(
    store: str, fitted: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A stream on S3 commits, and a signal ends it as usual."""
    with new_bucket(store, monkeypatch) as bucket:
        paths = bucket.put(pictures[:3])
        bucket.put_tree(fitted, "models")
        request.getfixturevalue("_process")
        with start("streaming", bucket.arguments("run", "--interval", "200ms")) as stream:
            try:
                wait_until(lambda: stream.poll() is not None or bucket.committed() >= 1)
            finally:
                stream.send_signal(signal.SIGTERM)
            said = end(stream)
        assert stream.returncode == 0, said
        assert bucket.counted() == dict.fromkeys(paths, 1)


@pytest.mark.usefixtures("_process")
def test_python_serves_the_credentials_that_boto3_has_to_those_who_know_the_token() -> None:
    """In the form that the SDK for Java reads."""
    served = serve_credentials()
    token = served["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
    answer = json.loads(_asked(served, {"Authorization": str(token)}))
    in_use = timedelta(minutes=15), timedelta(minutes=17)
    assert in_use[0] < datetime.fromisoformat(answer.pop("Expiration")) - datetime.now(UTC) < in_use[1]
    assert answer == {
        "AccessKeyId": _KEYS["AccessKeyId"],
        "SecretAccessKey": _KEYS["SecretAccessKey"],
        "Token": _KEYS["SessionToken"],
    }
    for wrong in ({}, {"Authorization": f"{token}x"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            _asked(served, wrong)


def _asked(served: Mapping[str, str | None], headers: dict[str, str]) -> bytes:
    request = urllib.request.Request(str(served["AWS_CONTAINER_CREDENTIALS_FULL_URI"]), headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: bytes = answer.read()
    return content


@pytest.mark.usefixtures("_process")
def test_why_there_are_no_credentials_is_told(tmp_path: Path) -> None:
    """Whoever asks may ask again."""
    (tmp_path / "answer.json").write_text("{}")
    served = serve_credentials()
    with pytest.raises(urllib.error.HTTPError) as caught:
        _asked(served, {"Authorization": str(served["AWS_CONTAINER_AUTHORIZATION_TOKEN"])})
    assert caught.value.code == 500
    assert "credential" in json.loads(caught.value.read())["message"]
    (tmp_path / "answer.json").write_text(json.dumps({"Version": 1, **_KEYS}))
    assert credentials()


def test_a_certificate_that_cannot_be_trusted_is_one_line(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what to set; waiting would not help."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", store)
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-west-3"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    forget_clients()
    assert main(["status", "--output", "s3a://bucket/output"]) == StorageError.exit_code
    said = capsys.readouterr().err
    assert "certificate of the store cannot be trusted (unable to get local issuer certificate); name a PEM" in said
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "gone.pem"))
    forget_clients()
    assert main(["status", "--output", "s3a://bucket/output"]) == SettingsError.exit_code
    assert f"AWS_CA_BUNDLE: cannot read {tmp_path}/gone.pem: No such file" in capsys.readouterr().err


def test_java_that_cannot_trust_a_certificate_says_the_same() -> None:
    """Rather than that the store does not answer, which would be retried."""
    said = (
        "AWSClientIOException: getFileStatus on s3a://b/x: software.amazon.awssdk.core.exception.SdkClientException: "
    )
    cause = "sun.security.validator.ValidatorException: PKIX path building failed"
    explained = explain_failure(PySparkException(f"{said}\n{cause}"))
    assert type(explained) is StorageError
    assert "AWS_CA_BUNDLE" in str(explained)


def test_java_trusts_the_authorities_of_a_bundle_besides_its_own(tmp_path: Path) -> None:
    """Its own tool counts the certificates; each is there once."""

    def count(*where: str) -> int:
        command = [str(java / "bin/keytool"), "-list", *where, "-storepass", "changeit"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.count("trustedCertEntry")

    java, bundle = find_java(), write_certificates(tmp_path)
    bundle.write_text(f"# an authority é\n{bundle.read_text()}\n{bundle.read_text()}", encoding="latin-1")
    store = write_trust_store(bundle, java)
    assert count("-keystore", str(store), "-storetype", "JKS") == count("-cacerts") + 1
