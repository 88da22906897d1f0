"""Settings: where they come from, which source wins, and what is said of a wrong one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from conf.errors import SettingsError
from conf.loading import load_settings
from conf.settings import Settings, parse_duration

CONF = Path(__file__).resolve().parents[2] / "conf"


def _write(folder: Path, content: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(content, encoding="utf-8")
    return file


def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source is used where the stronger ones are silent."""
    file = _write(tmp_path, "stream: {interval: 1s, settle: 1s, lease: 1min}\ninput: /file\n")
    monkeypatch.setenv("PICTURE_FEATURES_STREAM__SETTLE", "2s")
    monkeypatch.setenv("PICTURE_FEATURES_STREAM__INTERVAL", "2s")
    settings = load_settings({"stream.interval": "3s"}, file)
    seconds = [value.total_seconds() for value in (settings.stream.interval, settings.stream.settle)]
    assert seconds == [3, 2]
    assert settings.stream.lease == timedelta(minutes=1)
    assert settings.input == "/file"


def test_local_yaml_states_every_setting_with_its_default() -> None:
    """The file that people copy is complete and true."""
    file = CONF / "local.yaml"
    assert load_settings({}, file).model_dump() == load_settings({}).model_dump()
    content = yaml.safe_load(file.read_text(encoding="utf-8"))

    def keys(model: type[BaseModel]) -> dict[str, object]:
        sections = {name: field.annotation for name, field in model.model_fields.items()}
        return {
            name: keys(kind) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
            for name, kind in sections.items()
        }

    def shape(value: object) -> object:
        return {name: shape(inner) for name, inner in value.items()} if isinstance(value, dict) and value else None

    assert shape(content) == keys(Settings)


def test_emr_yaml_is_valid() -> None:
    """On EMR, spark-submit says where Spark runs."""
    settings = load_settings({}, CONF / "emr.yaml")
    assert settings.spark.master is None


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("stream.interval", "5", "stream.interval: '5' (from the command line) is not allowed: a duration is a number"),
        ("stream.interval", "nan s", "with a unit"),
        ("stream.max_pictures", "0", "greater than or equal to 1"),
        ("imaging.max_bytes", "a lot", "imaging.max_bytes: 'a lot' (from the command line)"),
        ("fit.variance", "1.5", "less than or equal to 1"),
        ("log.level", "loud", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_wrong_value_is_answered_with_key_value_and_what_is_allowed(key: str, value: str, told: str) -> None:
    """One line says all that is needed to mend it."""
    with pytest.raises(SettingsError) as caught:
        load_settings({key: value})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_source_of_a_wrong_value_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to search three places."""
    with pytest.raises(SettingsError, match=r"stream\.settle: 'x' \(from the file of --config\)"):
        load_settings({}, _write(tmp_path, "stream: {settle: x}"))
    monkeypatch.setenv("PICTURE_FEATURES_STREAM__SETTLE", "y")
    with pytest.raises(SettingsError, match=r"'y' \(from the environment variable PICTURE_FEATURES_STREAM__SETTLE\)"):
        load_settings({})


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """A line for each: nobody mends a file one run at a time."""
    content = "inputs: /a\nstream: {settle: x, intervall: 1s}\nfit: {k: 0}\nspark: {conf: {spark.a: [1]}}\n"
    with pytest.raises(SettingsError) as caught:
        load_settings({"log.level": "loud"}, _write(tmp_path, content))
    summary, *lines = str(caught.value).splitlines()
    assert summary == "6 settings are wrong:"
    assert {line.split(":")[0].split(" (")[0] for line in lines} == {
        *("  inputs", "  stream.settle", "  stream.intervall", "  fit.k", "  spark.conf.spark.a", "  log.level")
    }
    assert (
        "  stream.intervall: there is no such setting (from the file of --config); is stream.interval meant?" in lines
    )
    assert next(line for line in lines if "loud" in line).startswith("  log.level: 'loud' (from the command line)")


def test_all_keys_that_are_written_twice_are_told_at_once(tmp_path: Path) -> None:
    """As all other mistakes."""
    file = _write(tmp_path, "input: /a\ninput: /b\nfit:\n  k: 1\n  k: 2\n")
    with pytest.raises(SettingsError) as caught:
        load_settings({}, file)
    assert str(caught.value).splitlines() == [
        "2 keys are written twice:",
        f"  --config {file}: 'input' stands in line 1 and again in line 2; keep one of them",
        f"  --config {file}: 'k' stands in line 4 and again in line 5; keep one of them",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("stream: {intervall: 1s}", "stream.intervall: there is no such setting .*; is stream.interval meant"),
        ("- a", "must hold settings by name"),
        ("a: [", r"this is not YAML, line 1, column 5: expected the node content"),
        ("stream:\n  ignore: *.tmp", r"line 2, column 12: .*; texts that begin with \* or @ need quotes"),
        ("stream:\n  ignore: [@eaDir/]", "line 2, column 12: .*need quotes"),
    ],
)
def test_a_file_that_cannot_be_used_is_answered_in_one_line(tmp_path: Path, content: str, told: str) -> None:
    """Misspelt keys, lists and broken YAML alike."""
    with pytest.raises(SettingsError, match=told):
        load_settings({}, _write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "twice"),
    [
        ("stream: {settle: 1s}\ninput: /a\nstream: {interval: 1s}\n", r"'stream' stands in line 1 and again in line 3"),
        ("spark:\n  conf:\n    spark.a: 1\n    spark.a: 2\n", r"'spark\.a' stands in line 3 and again in line 4"),
    ],
)
def test_a_key_that_is_written_twice_is_refused(tmp_path: Path, content: str, twice: str) -> None:
    """YAML itself would keep the last one without a word."""
    with pytest.raises(SettingsError, match=twice):
        load_settings({}, _write(tmp_path, content))


def test_a_mapping_may_be_merged_into_another(tmp_path: Path) -> None:
    """What stands beside a merge key overrides it, which is not a repetition."""
    content = "spark:\n  conf: {<<: &more {spark.a: 1, spark.b: 2}, spark.b: 3}\n"
    assert load_settings({}, _write(tmp_path, content)).spark.conf == {"spark.a": "1", "spark.b": "3"}


def test_spark_properties_are_taken_as_they_are_written(tmp_path: Path) -> None:
    """As in spark-defaults.conf: YAML would make 15, 1000, 750, True and a date of these."""
    written = {"a": "8", "b": "true", "c": "017", "d": "1_000", "e": "12:30", "f": "yes", "g": "2026-01-31", "h": "1e3"}
    lines = "".join(f"    spark.{name}: {value}\n" for name, value in written.items())
    loaded = load_settings({}, _write(tmp_path, f"spark:\n  conf:\n{lines}    spark.quoted: '9'\n"))
    assert loaded.spark.conf == {f"spark.{name}": value for name, value in written.items()} | {"spark.quoted": "9"}


def test_spark_properties_in_the_environment_may_be_numbers_and_booleans(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON has no traps."""
    monkeypatch.setenv("PICTURE_FEATURES_SPARK__CONF", '{"spark.a": 8, "spark.b": true, "spark.c": 0.5}')
    assert load_settings({}).spark.conf == {"spark.a": "8", "spark.b": "true", "spark.c": "0.5"}
    monkeypatch.setenv("PICTURE_FEATURES_SPARK__CONF", '{"spark.a": [8]}')
    with pytest.raises(SettingsError, match=r"spark\.a: \[8\] \(from the environment variable PICTURE_"):
        load_settings({})


@pytest.mark.parametrize("value", ["2026", "no", "2026-01-31"])
def test_a_text_that_yaml_takes_for_something_else_is_to_be_quoted(tmp_path: Path, value: str) -> None:
    """A folder may have such a name."""
    with pytest.raises(SettingsError, match=r"^input: .* is not allowed: it is not a text; write it in quotes$"):
        load_settings({}, _write(tmp_path, f"input: {value}\n"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("INTERVAL", "is PICTURE_FEATURES_STREAM__INTERVAL meant?"),
        ("STREAM_INTERVAL", "is PICTURE_FEATURES_STREAM__INTERVAL meant?"),
        ("stream__intervall", "is PICTURE_FEATURES_STREAM__INTERVAL meant?"),
        ("S3__ENDPOINT_URL", "is PICTURE_FEATURES_S3__ENDPOINT meant?"),
        ("OUTPUTS", "is PICTURE_FEATURES_OUTPUT meant?"),
        ("XYZ", "conf/local.yaml lists all settings"),
    ],
)
def test_a_misspelt_variable_is_refused(name: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than ignored without a word."""
    monkeypatch.setenv(f"PICTURE_FEATURES_{name}", "1s")
    with pytest.raises(SettingsError) as caught:
        load_settings({})
    assert str(caught.value) == f"PICTURE_FEATURES_{name}: there is no such setting (from the environment); {told}"


def test_a_property_that_would_lose_its_capitals_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTURE_FEATURES_SPARK__CONF__spark.driver.maxResultSize", "4g")
    with pytest.raises(SettingsError) as caught:
        load_settings({})
    told = """PICTURE_FEATURES_SPARK__CONF='{"spark.driver.maxResultSize": "..."}'"""
    assert str(caught.value).endswith(told)
    monkeypatch.undo()
    monkeypatch.setenv("PICTURE_FEATURES_SPARK__CONF", '{"spark.driver.maxResultSize": "4g"}')
    assert load_settings({}).spark.conf == {"spark.driver.maxResultSize": "4g"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("stream__settle", "1s"), ("STREAM", '{"settle": "1s"}'), ("SPARK__CONF__spark.x", "1"), ("INPUT", "")],
)
def test_every_spelling_of_a_variable_that_counts_is_accepted(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small letters, whole sections, single properties."""
    monkeypatch.setenv(f"PICTURE_FEATURES_{name}", value)
    load_settings({})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """As is the reason."""
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: cannot read it: No such file"):
        load_settings({}, tmp_path / "nowhere.yaml")


def test_k_and_variance_exclude_each_other() -> None:
    """Neither silently wins."""
    with pytest.raises(SettingsError, match=r"^fit \(from the command line\): k and variance exclude each other"):
        load_settings({"fit.k": "3", "fit.variance": "0.5"})
    assert load_settings({}).fit.variance_target == 0.9
    assert load_settings({"fit.k": "3"}).fit.variance_target is None


def test_a_stronger_source_decides_whether_k_or_variance_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a weaker one gives of the two is left out; two of one source stay a mistake."""
    file = _write(tmp_path, "fit: {k: 50, promote: never}\n")
    fit = load_settings({"fit.variance": "0.8"}, file).fit
    assert (fit.k, fit.variance, fit.promote) == (None, 0.8, "never")
    for name, value in (("FIT__VARIANCE", "0.7"), ("FIT", '{"variance": 0.7}')):
        with monkeypatch.context() as patch:
            patch.setenv(f"PICTURE_FEATURES_{name}", value)
            fit = load_settings({}, file).fit
            assert (fit.k, fit.variance, fit.promote) == (None, 0.7, "never")
            assert load_settings({"fit.k": "5"}, file).fit.variance_target is None
    assert load_settings({"fit.variance": "0.8"}, CONF / "local.yaml").fit.variance == 0.8
    with pytest.raises(SettingsError, match="k and variance exclude each other"):
        load_settings({"fit.limit": "5"}, _write(tmp_path, "fit: {k: 50, variance: 0.9}\n"))


def test_the_environment_may_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of settings for programs on other machines; a wrong value in the file is the file's."""
    monkeypatch.setenv("PICTURE_FEATURES_STREAM__SETTLE", "9s")
    monkeypatch.setenv("PICTURE_FEATURES_XYZ", "1")
    file = _write(tmp_path, "stream: {interval: 45s}\n")
    settings = load_settings({}, file, environment=False)
    assert [one.total_seconds() for one in (settings.stream.interval, settings.stream.settle)] == [45, 2]
    with pytest.raises(SettingsError, match=r"stream\.settle: 'x' \(from the file of --config\)"):
        load_settings({}, _write(tmp_path, "stream: {settle: x}"), environment=False)


@given(st.integers(0, 10**6), st.sampled_from([("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000)]))
def test_durations_mean_what_they_say(number: int, unit: tuple[str, int]) -> None:
    """Whole numbers of each unit, with and without a space."""
    name, milliseconds = unit
    expected = timedelta(milliseconds=number * milliseconds)
    assert parse_duration(f"{number}{name}") == parse_duration(f"{number} {name.upper()}") == expected
