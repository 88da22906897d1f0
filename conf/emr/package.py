"""The package that EMR runs: an archive of their code, and one of what they depend on.

The dependencies are wheels for the nodes' platform and Python, taken by pip from the lock file with their hashes: an
archive of a virtual environment would link to the interpreter of the machine that made it. Spark brings pyspark and
py4j.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, get_args

from packaging.markers import Marker

from conf.errors import PlatformError, SettingsError

Platform = Literal["x86_64", "aarch64"]

CODE = "application.zip"
DEPENDENCIES = "dependencies.zip"

_logger = logging.getLogger(__name__)

_PROJECT = Path(__file__).resolve().parents[2]
_LOCK = _PROJECT / "requirements" / "run.txt"
_PACKAGES = ("batch_fit", "conf", "streaming")
_CODE_SUFFIXES = {".css", ".j2", ".properties", ".py", ".yaml"}

# Release 8 of EMR: Python 3.11 on Amazon Linux 2023, whose glibc is 2.34. pip does not know that a platform takes the
# wheels of older ones. https://docs.aws.amazon.com/linux/al2023/ug/core-glibc.html
_PYTHON = "3.11"
_GLIBC_MINORS = range(34, 16, -1)
_FROM_SPARK = {"py4j", "pyspark"}

# What nobody imports. Each file costs a chmod when YARN unpacks the archive. Licences stay.
_UNUSED_FOLDERS = {"__pycache__", "bin", "include", "tests"}
_UNUSED_SUFFIXES = {".a", ".c", ".cc", ".cmake", ".cpp", ".h", ".hpp", ".lib", ".pc", ".pxd", ".pxi", ".pyi", ".pyx"}
_UNUSED_METADATA = {"INSTALLER", "RECORD", "REQUESTED", "WHEEL", "entry_points.txt", "top_level.txt"}
_TIME_ZONES = {("pytz", "zoneinfo"), ("tzdata", "zoneinfo")}  # 1,200 files; all times here are UTC
_SERVICES = {"glue", "logs", "s3", "sqs", "sts"}  # of the 400 that botocore describes

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold
_PLAIN_FILE = 0o100644 << 16


@dataclass(frozen=True)
class Package:
    """The files that were built.

    Attributes:
        code: batch_fit, conf and streaming, for --py-files.
        dependencies: for --archives.
    """

    code: Path
    dependencies: Path

    def files(self) -> tuple[Path, ...]:
        """All of it."""
        return self.code, self.dependencies


def build(platform: Platform, to: Path) -> Package:
    """Make all of it in the folder `to`. The same lock file and code give the same bytes.

    Raises:
        SettingsError: there is no such platform, or `to` cannot be written.
        PlatformError: a wheel cannot be downloaded.
    """
    if platform not in get_args(Platform):
        raise SettingsError(f"platform: {platform!r} is not allowed: choose from {', '.join(get_args(Platform))}")
    package = Package(to / CODE, to / DEPENDENCIES)
    try:
        to.mkdir(parents=True, exist_ok=True)
        _archive(_code(), _PROJECT, package.code)
        with tempfile.TemporaryDirectory() as scratch:
            wheels = Path(scratch, "wheels")
            _install(platform, wheels, Path(scratch, "lock.txt"))
            _archive(filter(is_needed, _files(wheels)), wheels, package.dependencies)
    except OSError as error:
        raise SettingsError(f"package: cannot write {error.filename or to}: {error.strerror}") from error
    return package


def locked(lock: str, platform: Platform) -> str:
    """The lock file as it is on a platform, without what Spark brings.

    pip would ask the markers of the requirements for the Python that it runs on, whatever it takes wheels for.
    """
    entries = re.findall(r"^(\w\S*==\S+)(?: ; (.+?))?( \\\n(?:[ \t].*\n?)+)", lock, flags=re.MULTILINE)
    target = {
        "python_version": _PYTHON,
        "python_full_version": f"{_PYTHON}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": platform,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    return "".join(
        f"{pinned}{hashes}"
        for pinned, marker, hashes in entries
        if pinned.partition("==")[0] not in _FROM_SPARK and (not marker or Marker(marker).evaluate(target))
    )


def is_needed(file: PurePath) -> bool:
    """Whether a file of a wheel, by its path in the archive, is of use on a node."""
    folders = file.parts[:-1]
    if not _UNUSED_FOLDERS.isdisjoint(folders) or file.suffix in _UNUSED_SUFFIXES:
        return False
    if folders and folders[0].endswith(".dist-info"):
        return file.name not in _UNUSED_METADATA
    if folders[:2] in _TIME_ZONES:
        return False
    is_service = folders[:2] in {("botocore", "data"), ("boto3", "data")} and len(folders) > 2  # noqa: PLR2004 # a folder
    return not is_service or folders[2] in _SERVICES


def _install(platform: Platform, target: Path, lock: Path) -> None:
    """Unpack the locked wheels for a platform, from wherever pip is configured to find them."""
    try:
        lock.write_text(locked(_LOCK.read_text(encoding="utf-8"), platform), encoding="utf-8")
    except FileNotFoundError as error:
        raise PlatformError(f"{_LOCK} is missing; package from a checkout of the project") from error
    tags = [f"manylinux_2_{minor}_{platform}" for minor in _GLIBC_MINORS] + [f"manylinux2014_{platform}"]
    _logger.info("taking the wheels of %s for %s and Python %s", _LOCK.name, platform, _PYTHON)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"),
            *("--no-deps", "--require-hashes", "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", _PYTHON),
            *(part for tag in tags for part in ("--platform", tag)),
            *("--target", str(target), "--requirement", str(lock)),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.strip()] or ["it said nothing"]
        errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
        raise PlatformError(f"pip cannot take the wheels for {platform}: {(errors or said)[-1]}")


def _code() -> list[PurePath]:
    """The files of which the programs consist."""
    files = [Path(package, file) for package in _PACKAGES for file in _files(_PROJECT / package)]
    return [file for file in files if file.suffix in _CODE_SUFFIXES]


def _files(root: Path) -> list[PurePath]:
    """All files below, relative to it."""
    return [file.relative_to(root) for file in root.rglob("*") if file.is_file()]


def _archive(files: Iterable[PurePath], root: Path, to: Path) -> None:
    """A zip file that depends on nothing but the names and the content, and appears whole."""
    part = to.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(files, key=str):
            entry = zipfile.ZipInfo(file.as_posix(), _EPOCH)
            entry.external_attr = _PLAIN_FILE
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (root / file).read_bytes())
    part.rename(to)
