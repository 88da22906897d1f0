"""Builds the settings from flags, environment and file, in this order of precedence, and explains wrong values."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from conf.errors import SettingsError, one_line_each
from conf.settings import ENV_PREFIX, Settings, keys
from conf.yaml_file import list_of_settings, read_yaml

_OF_SPARK = f"{ENV_PREFIX}SPARK__CONF__"


_EITHER = frozenset(("k", "variance"))
"""The settings of a fit that exclude each other."""


def load_settings(flags: Mapping[str, Any], config: Path | None = None, *, environment: bool = True) -> Settings:
    """Build and validate the tree of settings.

    Args:
        flags: values given on the command line, by dotted key (`stream.interval`).
        config: the YAML file of `--config`.
        environment: whether variables of this process count: not for settings of programs on other machines.

    Raises:
        SettingsError: a value is wrong; the message names the key, the value, its source and the allowed values, in
            a line for each value that is wrong.
    """
    in_file = read_yaml(config) if config else {}
    variables = [*os.environ] if environment else []
    _check_variables(variables)
    nested: dict[str, Any] = {}
    for key, value in flags.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value

    class Configured(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            *_sources: PydanticBaseSettingsSource,
            **_more: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            values = [init_settings(), env_settings() if environment else {}, in_file]
            return tuple(InitSettingsSource(settings_cls, one) for one in _with_one_that_decides(values))

    try:
        return Configured(**nested)
    except ValidationError as error:
        origin = partial(_origin, flags=flags, variables=variables, in_file=in_file)
        raise SettingsError(_explain_all(error.errors(), origin)) from error
    except ValueError as error:  # pydantic-settings: an environment variable that is not JSON where JSON is needed
        raise SettingsError(f"the environment holds a value that cannot be read: {error}") from error


def _with_one_that_decides(values: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The values of each source, the strongest first, of which only the first with `k` or `variance` keeps these.

    A stronger source wins over a weaker one, also where it gives the other one of the two.
    """
    decided = False
    for one in values:
        fit = one.get("fit")
        if not isinstance(fit, dict):
            yield one
            continue
        yield {**one, "fit": {key: value for key, value in fit.items() if key not in _EITHER}} if decided else one
        decided = decided or any(fit.get(key) is not None for key in _EITHER)


def _check_variables(names: Iterable[str]) -> None:
    """Refuse environment variables that look like settings and are not: pydantic-settings would ignore them.

    Raises:
        SettingsError: there is such a variable; the message names it and the nearest setting.
    """
    for name in names:
        if name.upper().startswith(_OF_SPARK) and (spelt := name[len(_OF_SPARK) :]) not in (
            spelt.lower(),
            spelt.upper(),
        ):
            raise SettingsError(
                f"{name}: the name of a variable loses its capitals, and Spark would not know the property; give it as "
                f'JSON: {variable_of("spark.conf")}=\'{{"{spelt}": "..."}}\''
            )
        if name.upper().startswith(ENV_PREFIX) and not _is_variable(name.upper().removeprefix(ENV_PREFIX)):
            raise SettingsError(f"{name}: there is no such setting (from the environment); {_nearest_variable(name)}")


def _is_variable(path: str) -> bool:
    """Whether the rest of a name is a setting, a section as JSON, or an entry below a setting that has entries."""
    key = path.lower().replace("__", ".")
    return any(one == key or one.startswith(f"{key}.") for one in keys()) or key.startswith("spark.conf.")


def _nearest_variable(name: str) -> str:
    """A suggestion; flags have no section in their name, so a variable without it is the likeliest mistake."""
    key = name.upper().removeprefix(ENV_PREFIX).lower().replace("__", "_")
    by_spelling = {spelt: one for one in keys() for spelt in (one.replace(".", "_"), one.rpartition(".")[2])}
    if not (near := get_close_matches(key, by_spelling, n=1)):
        return f"{list_of_settings()} lists all settings"
    return f"is {variable_of(by_spelling[near[0]])} meant?"


def variable_of(key: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + key.replace(".", "__").upper()


def _explain_all(problems: Sequence[ErrorDetails], origin: Callable[[str], str]) -> str:
    lines = {}
    for problem in problems:
        key = ".".join(str(part) for part in problem["loc"])
        lines[key] = _explain(key, problem["type"], problem["input"], problem["msg"], origin(key))
    return one_line_each("settings are wrong", [*lines.values()])


def _explain(key: str, kind: str, value: object, message: str, origin: str) -> str:
    if kind == "extra_forbidden":
        near = get_close_matches(key, keys(), n=1)
        hint = f"is {near[0]} meant?" if near else f"{list_of_settings()} lists all settings"
        return f"{key}: there is no such setting ({origin}); {hint}"
    problem = message.removeprefix("Value error, ")
    problem = f"{problem[:1].lower()}{problem[1:]}"
    if kind == "string_type" and isinstance(value, bool | int | float | date):
        problem = "it is not a text; write it in quotes"
    if isinstance(value, dict):  # its settings are not allowed together
        return f"{key} ({origin}): {problem}"
    return f"{key}: {value!r} ({origin}) is not allowed: {problem}"


def _origin(key: str, flags: Mapping[str, Any], variables: Iterable[str], in_file: Mapping[str, Any]) -> str:
    if any(flag == key or flag.startswith(f"{key}.") for flag in flags):
        return "from the command line"
    variable = variable_of(key)
    for name in map(str.upper, variables):
        if name == variable or name.startswith(f"{variable}__") or variable.startswith(f"{name}__"):
            return f"from the environment variable {name}"
    return "from the file of --config" if in_file else "by default"
