"""Builds the settings from flags, environment and file, and says what is wrong with them.

It owns the order of the sources and the words of an error; it must not know any setting by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from conf.errors import SettingsError
from conf.settings import ENV_PREFIX, Settings


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Build and validate the tree.

    Args:
        flags: values given on the command line, by dotted key (`stream.interval`).
        config: the YAML file of `--config`.

    Raises:
        SettingsError: naming the key, the value, where it came from and what is allowed.
    """
    in_file = _read_yaml(config) if config else {}
    nested: dict[str, Any] = {}
    for key, value in flags.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value

    class Configured(Settings):
        model_config = SettingsConfigDict(yaml_file=config)

    try:
        return Configured(**nested)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise SettingsError(_explain(key, problem["type"], problem["input"], problem["msg"], flags, in_file)) from error
    except ValueError as error:  # pydantic-settings: an environment variable that is not JSON where JSON is needed
        raise SettingsError(f"the environment holds a value that cannot be read: {error}") from error


def _read_yaml(config: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise SettingsError(f"--config {config}: cannot read it: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise SettingsError(f"--config {config}: this is not YAML: {where}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"--config {config}: must hold settings by name, like conf/local.yaml")
    return content


def _explain(
    key: str, kind: str, value: object, message: str, flags: Mapping[str, Any], in_file: Mapping[str, Any]
) -> str:
    if kind == "extra_forbidden":
        return f"{key}: there is no such setting ({_origin(key, flags, in_file)}); conf/local.yaml lists them all"
    problem = message.removeprefix("Value error, ")
    problem = f"{problem[:1].lower()}{problem[1:]}"
    origin = _origin(key, flags, in_file)
    if isinstance(value, dict):  # what is wrong is how its settings go together
        return f"{key} ({origin}): {problem}"
    return f"{key}: {value!r} ({origin}) is not allowed: {problem}"


def _origin(key: str, flags: Mapping[str, Any], in_file: Mapping[str, Any]) -> str:
    if any(flag == key or flag.startswith(f"{key}.") for flag in flags):
        return "from the command line"
    variable = ENV_PREFIX + key.replace(".", "__").upper()
    for name in map(str.upper, os.environ):
        if name == variable or name.startswith(f"{variable}__"):
            return f"from the environment variable {name}"
    return "from the file of --config" if in_file else "by default"
