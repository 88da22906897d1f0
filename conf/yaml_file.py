"""Reads the YAML file of `--config` without YAML's traps.

A key that is written twice is refused, where YAML keeps the last one. Values under `spark.conf` are texts as written,
like in spark-defaults.conf: `017`, `1_000`, `yes` and `12:30` would otherwise be numbers and a boolean.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from conf.errors import SettingsError, one_line_each

_TEXT, _NULL, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("str", "null", "merge"))


def list_of_settings() -> str:
    """The file with all settings and their defaults, by its path from here: an installed package has it, too."""
    file, near = Path(__file__).with_name("local.yaml"), Path("conf", "local.yaml")
    return str(near if near.exists() and near.samefile(file) else file)


def read_yaml(file: Path) -> dict[str, Any]:
    """The settings of a file, by section.

    Raises:
        SettingsError: it cannot be read, is not YAML, has a key twice, or is not a mapping.
    """
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        document = loader.get_single_node()
        if duplicates := [f"--config {file}: {duplicate}; keep one of them" for duplicate in _duplicates(document)]:
            raise SettingsError(one_line_each("keys are written twice", duplicates))
        for properties in _below(document, "spark", "conf"):
            _take_as_written(properties)
        content = loader.construct_document(document) if document else {}
    except OSError as error:
        raise SettingsError(f"--config {file}: cannot read it: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"--config {file}: this is not YAML{_explain(error)}") from error
    if not isinstance(content or {}, dict):
        raise SettingsError(f"--config {file}: must hold settings by name, like {list_of_settings()}")
    return content or {}


def _explain(error: Exception) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f": {' '.join(str(error).split())}"
    where = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
    is_unquoted = isinstance(error, yaml.scanner.ScannerError)
    return f", {where}: {error.problem}{'; texts that begin with * or @ need quotes' if is_unquoted else ''}"


def _duplicates(node: yaml.Node | None) -> Iterator[str]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _duplicates(item)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in lines:
                    yield f"{key.value!r} stands in line {lines[key.value]} and again in line {line}"
                lines[key.value] = line
            yield from _duplicates(value)


def _below(node: yaml.Node | None, *path: str) -> Iterator[yaml.Node]:
    if not path and node:
        yield node
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == path[0]:
                yield from _below(value, *path[1:])


def _take_as_written(properties: yaml.Node) -> None:
    if isinstance(properties, yaml.MappingNode):
        for key, value in properties.value:
            for scalar in (key, value):
                if isinstance(scalar, yaml.ScalarNode) and scalar.tag not in {_NULL, _MERGE}:
                    scalar.tag = _TEXT
