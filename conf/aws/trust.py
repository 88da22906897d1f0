"""Certificates for Java, which reads no PEM files.

A JKS file of certificates is a list with a checksum; Java's own tool takes one certificate at a time.
https://github.com/openjdk/jdk/blob/jdk-17%2B35/src/java.base/share/classes/sun/security/provider/JavaKeyStore.java
"""

from __future__ import annotations

import hashlib
import re
import ssl
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEYTOOL = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-m", "java.base/sun.security.tools.keytool.Main")
_MAGIC, _VERSION, _TRUSTED = 0xFEEDFEED, 2, 2
_PASSWORD = "changeit"  # noqa: S105 # Java's own default, which protects nothing: the file is as public as its content
_SALT = b"Mighty Aphrodite"  # of the checksum; see JavaKeyStore.getPreKeyedHash


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A private folder until this process ends, as Java may read the file again at any time."""
    return tempfile.TemporaryDirectory(prefix="picture-features-")


def write_trust_store(bundle: Path, java: Path) -> Path:
    """A JKS file with the certificates of a PEM file, for as long as this process lives.

    It has the own certificates of `java`, a JAVA_HOME, too, because the same JVM fetches packages from Maven Central.

    Raises:
        OSError: a file cannot be read or written.
    """
    list_own = [str(java / "bin/java"), *_KEYTOOL, "-list", "-rfc", "-cacerts", "-storepass", _PASSWORD]
    own = subprocess.run(list_own, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout
    store = Path(_folder().name, "trust.jks")
    store.write_bytes(_jks(dict.fromkeys((*_certificates(bundle.read_bytes()), *_certificates(own)))))
    return store


def _certificates(text: bytes) -> list[bytes]:
    """The certificates of a PEM text, in DER; other text in between is ignored."""
    return [ssl.PEM_cert_to_DER_cert(pem.decode("ascii", "replace")) for pem in _PEM.findall(text)]


def _jks(certificates: Iterable[bytes]) -> bytes:
    entries = [
        struct.pack(">I", _TRUSTED) + _text(str(number)) + bytes(8) + _text("X.509") + struct.pack(">I", len(der)) + der
        for number, der in enumerate(certificates)
    ]
    content = struct.pack(">III", _MAGIC, _VERSION, len(entries)) + b"".join(entries)
    checksum = hashlib.sha1(_PASSWORD.encode("utf-16-be") + _SALT + content, usedforsecurity=False)
    return content + checksum.digest()


def _text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode()
