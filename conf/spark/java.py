"""Finds a Java that runs Spark, and fetches one into the project where there is none.

It needs only the standard library, because set-up runs it before anything is installed.
"""

from __future__ import annotations

import codecs
import locale
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from conf.errors import PlatformError

_VERSIONS = ("17", "21")  # Spark 4.1's own documentation: "Spark runs on Java 17/21"
_MODULE = "jdk.incubator.vector"  # Spark starts its JVM with --add-modules=jdk.incubator.vector
_REMEDY = (
    "install one (apt install openjdk-17-jre-headless, on Debian 13 openjdk-21-jre-headless; "
    "dnf install java-21-openjdk-headless; brew install --cask temurin@21)"
)
_INSTALL = "import sys; sys.path.insert(0, sys.argv[1]); import jdk; jdk.install('17', path=sys.argv[2])"

# Messages of a JVM that cannot start or go on; the first kind that is found counts, and of that the innermost.
_LAST_WORDS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^Caused by: (.+)$",
        r"^Exception in thread \"[^\"]*\" (.+)$",
        r"^Error occurred during initialization of VM\n(.+)$",
        r"^(.+)\nError: Could not create the Java Virtual Machine",
        r"^# (There is insufficient memory .+|Out of Memory .+)$",
        r"^Error: (.+)$",
        r"^(.*(?:[Nn]o such file|[Pp]ermission denied|[Nn]ot found).*)$",  # of the shell that starts it
    )
)

_PROJECT = Path(__file__).resolve().parents[2]
_FETCHED = _PROJECT / ".java"
_OF_CHECKOUT = " or have `make setup` fetch one" if (_PROJECT / "Makefile").exists() else ""


def find_java() -> Path:
    """The JAVA_HOME of the first Java that Spark runs on: of `.java/` in the project, JAVA_HOME, the PATH.

    Each is started to test it, which takes 60 ms: launchers that stand for another Java, or for none, are common.

    Raises:
        PlatformError: there is none; the message says what was found and what to install.
    """
    unfit = []
    for java in _launchers():
        try:
            return _home(java)
        except PlatformError as problem:
            unfit.append(str(problem))
    found = ", ".join(unfit) or "there is none in JAVA_HOME or on the PATH"
    raise PlatformError(f"Spark needs Java 17 or 21, and {found}; {_REMEDY}{_OF_CHECKOUT}")


def last_words(stderr: str) -> str | None:
    """The reason why a JVM ended, from its output: the innermost cause, without its trace. None if there is none."""
    for pattern in _LAST_WORDS:
        if found := pattern.findall(stderr):
            return str(found[-1]).strip()
    return None


def utf8_locale() -> dict[str, str]:
    """Environment variables by which a JVM reads and writes file names as this Python does.

    Where the locale is C, or is not installed, Python decodes names as UTF-8, and Java as ASCII.
    """
    of_python, of_java = (codecs.lookup(name).name for name in (sys.getfilesystemencoding(), locale.getencoding()))
    return {"LC_ALL": "C.UTF-8"} if of_python == "utf-8" != of_java else {}


def _launchers() -> Iterator[Path]:
    if _FETCHED.exists():
        yield _FETCHED / "bin/java"
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home, "bin/java")
    if on_path := shutil.which("java"):
        yield Path(on_path)


def _home(java: Path) -> Path:
    """The JAVA_HOME that a launcher stands for.

    Raises:
        PlatformError: Spark does not run on it; the message says why.
    """
    settings = _output(java, "-XshowSettings:properties", "-version")
    home = re.search(r"^ *java\.home = (.+)$", settings, re.MULTILINE)
    version = re.search(r"^ *java\.specification\.version = (?:1\.)?(\d+)$", settings, re.MULTILINE)
    if not home or not version:
        why = last_words(settings)
        raise PlatformError(f"{java} does not run" + (f" ({why})" if why else ""))
    if version[1] not in _VERSIONS:
        raise PlatformError(f"{java} is Java {version[1]}")
    if _MODULE not in _output(java, "--list-modules"):
        raise PlatformError(f"{java} is a cut-down Java {version[1]} without the module {_MODULE}")
    return Path(home[1])


def _output(*command: str | Path) -> str:
    """The output of a command; empty if it cannot be started or hangs."""
    try:
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **utf8_locale()},
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout


def fetch_java() -> Path:
    """Download a JDK 17 into the project's `.java/`, which appears whole or not at all; returns its JAVA_HOME.

    Raises:
        PlatformError: it cannot be fetched, or does not run here.
    """
    build = _PROJECT / "build"
    build.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=build) as folder:
        packages, jdk = f"{folder}/packages", f"{folder}/jdk"
        lock = str(_PROJECT / "requirements/java.txt")
        _python("-m", "pip", "install", "--quiet", "--require-hashes", "--target", packages, "-r", lock)
        _python("-c", _INSTALL, packages, jdk)
        # In a JDK for macOS, JAVA_HOME lies two folders deeper.
        home = next(Path(jdk).glob("**/bin/java"), Path(jdk, "bin/java")).parent.parent
        _home(home / "bin/java")
        shutil.rmtree(_FETCHED, ignore_errors=True)  # a former one did not fit, or this would not run
        home.rename(_FETCHED)
    return _FETCHED


def _python(*arguments: str) -> None:
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, errors="replace", check=False)
    if result.returncode:
        raise PlatformError(result.stderr.strip().rpartition("\n")[2])


def main() -> int:
    """Print the JAVA_HOME that Spark will use, after fetching a Java if there is none yet."""
    try:
        home = find_java()
    except PlatformError as missing:
        sys.stderr.write("No Java 17 or 21 here: fetching one into .java/ (190 MB)\n")
        try:
            home = fetch_java()
        except (PlatformError, OSError) as failure:
            sys.stderr.write(f"{missing}, which failed just now ({failure})\n")
            return PlatformError.exit_code
    sys.stdout.write(f"{home}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
