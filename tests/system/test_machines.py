"""Machines that differ from ours: locale, host name, user, home; a program works there or says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conf.errors import PlatformError, SettingsError
from conf.loading import load_settings
from conf.logs import log_folder
from conf.spark.java import find_java, last_words
from conf.spark.jvm import in_environment, java_option
from conf.spark.session import start_session
from streaming.__main__ import main
from streaming.storage.locations import check_readable_by_spark
from tests.support.streams import PROJECT, Place

_NAMELESS = 54321


def _require_rights(command: list[str]) -> None:
    """Skip where this user may not do what the test needs, but never in CI."""
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        message = f"this test needs the right to call {command[0]}: {tried.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


def test_a_container_without_locale_user_home_and_host_name(tmp_path: Path, fitted: Path, pictures: list[Path]) -> None:
    """All at once: LC_ALL=C with accents in every path, a user id without a name, no HOME, an unknown host name.

    And the environment names another Spark.
    """
    other_host = ["unshare", "--uts", "sh", "-c", 'hostname nowhere-to-be-found && exec "$@"', "sh"]
    # The rights over files stay, because the folders of the tests belong to another user.
    rights = ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    other_user = ["setpriv", f"--reuid={_NAMELESS}", f"--regid={_NAMELESS}", "--clear-groups", *rights]
    _require_rights([*other_host, *other_user])
    project, temporary, logs = (tmp_path / name for name in ("projét 10:00", "tmp é", "log é"))
    project.mkdir()
    temporary.mkdir()
    for package in ("conf", "streaming"):
        shutil.copytree(PROJECT / package, project / package)
    place = Place(tmp_path / "é [x]")
    place.source.mkdir(parents=True)
    shutil.copytree(fitted, place.models)
    paths = place.put(*pictures[:3], folder="10:00 à")
    arguments = place.arguments("replay", "--checkpoint", str(tmp_path / "é [x] 10:00"), "--log-folder", str(logs))
    done = subprocess.run(
        [*other_host, *other_user, sys.executable, "-m", "streaming", *arguments],
        cwd=project,
        env={
            "PATH": os.environ["PATH"],
            "JAVA_HOME": str(find_java()),
            "SPARK_HOME": "/opt/another/spark",
            "LC_ALL": "C",
            "TMPDIR": str(temporary),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert place.rows().column("path").to_pylist() == sorted(paths)
    assert {file.name.partition("-out-")[0] for file in logs.iterdir()} >= {"spark", "streaming-replay"}
    assert not list(temporary.iterdir())


def test_an_output_that_spark_cannot_read_is_refused_in_one_line(
    place: Place, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before Spark starts."""
    place.put(*pictures[:1])
    output = str(place.root / "[x] 10:00")
    assert main(["replay", *place.arguments("replay")[1:], "--output", output]) == SettingsError.exit_code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {output}: Spark cannot read from a folder with both a colon and one of []{{}}*?\\")
    for fine in ("/10:00", "/[x]", "s3://bucket/[x]", "s3://bucket/10:00"):
        check_readable_by_spark(fine)
    with pytest.raises(SettingsError):
        check_readable_by_spark("s3://bucket/10:00/{a}")


@pytest.mark.parametrize("home", [None, "/proc/nowhere"])
def test_without_a_home_the_log_goes_to_a_private_folder_and_a_line_says_where(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """HOME is missing in many containers, or cannot be written to."""
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pwd.getpwuid", _no_entry)
    with in_environment({"HOME": home}):
        assert main(["status", "--output", str(tmp_path / "out"), "--log-format", "text"]) != 0
    folder = tmp_path / f"picture-features-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [*folder.glob("streaming-status-out-*.log")]
    assert f"there is no home to write log files to: they are in {folder}" in capsys.readouterr().err


def _no_entry(number: int) -> None:
    raise KeyError(number)


def test_a_log_folder_that_somebody_else_made_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can make a folder in /tmp."""
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: _NAMELESS)
    with in_environment({"HOME": "/proc/nowhere"}), pytest.raises(SettingsError, match="belongs to somebody else"):
        log_folder(load_settings({}).log)


@pytest.mark.parametrize(
    ("stderr", "cause"),
    [
        (
            'Exception in thread "main" a.Outer: 1\nCaused by: a.Middle: 2\n\t... 2 more\nCaused by: a.Inner: 3\n',
            "a.Inner: 3",
        ),
        (
            'Picked up JAVA_TOOL_OPTIONS: -Dx=y\nException in thread "main" java.lang.Error: this\n\tat a.B.c(B:1)\n',
            "java.lang.Error: this",
        ),
        (
            "Error occurred during initialization of VM\nCould not reserve enough space for object heap\n",
            "Could not reserve enough space for object heap",
        ),
        (
            "Unrecognized VM option 'Nonsense'\nError: Could not create the Java Virtual Machine.\nError: Fatal\n",
            "Unrecognized VM option 'Nonsense'",
        ),
        (
            "#\n# There is insufficient memory for the Java Runtime Environment to continue.\n# More\n",
            "There is insufficient memory for the Java Runtime Environment to continue.",
        ),
        ("Error: LinkageError occurred\n", "LinkageError occurred"),
        ("/x/bin/spark-class: line 71: /gone/bin/java: No such file or directory\n", None),
        ("WARNING: Using incubator modules: jdk.incubator.vector\n", None),
    ],
)
def test_the_innermost_cause_of_a_jvm_that_ended_is_found(stderr: str, cause: str | None) -> None:
    """In whichever way it says so."""
    assert last_words(stderr) == (cause or (stderr.strip() if "No such" in stderr else None))


def test_a_java_that_does_not_start_is_answered_with_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options in the environment reach every JVM."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+Nonsense")
    with pytest.raises(PlatformError, match=r"does not run \(Unrecognized VM option 'Nonsense'\)"):
        find_java()


def test_a_jvm_that_does_not_start_is_answered_with_its_own_words(tmp_path: Path) -> None:
    """What is wrong is in the line that people get; the log has the rest."""
    script = (
        "import sys; from conf.loading import load_settings; from conf.spark.session import start_session\n"
        "settings = {'log.folder': sys.argv[1], 'spark.conf': {'spark.driver.memory': '1k'}}\n"
        "start_session('test', load_settings(settings), {})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    log = tmp_path / "spark-stderr-test.log"
    assert f"Spark does not start on local[*,4]: Too small maximum heap; see {log}" in last


@pytest.mark.usefixtures("jvm")
def test_a_stale_pyspark_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH often holds that of another Spark."""
    monkeypatch.setattr("pyspark.__version__", "3.5.0")
    with pytest.raises(PlatformError, match=r"^PySpark 3\.5\.0 from /.* hides the 4\.1\.1 .* unset PYTHONPATH$"):
        start_session("test", load_settings({}), {})


def test_a_value_in_a_java_option_may_hold_anything() -> None:
    """As Spark's launcher reads it: a backslash takes the next character as it stands."""
    assert java_option("name", 'a b "c" \\d') == '-Dname="a b \\"c\\" \\\\d"'
