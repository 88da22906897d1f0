"""The templates of the stacks as data, and what to look for in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from cfnlint.decode import decode

from conf.emr import spark_submit
from conf.emr.stack import Part

PARTS: tuple[Part, ...] = get_args(Part)
COMPUTES: tuple[Part, ...] = ("serverless", "cluster")
PLACES = spark_submit.Locations(
    "s3://a", "s3://i", "s3://m", "s3://o", "eu-west-3", "https://q", "/g", "s3://o/snapshots", "db.snapshot"
)


def decoded(file: Path) -> dict[str, Any]:
    found, matches = decode(str(file))
    assert not matches
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def of_type(resources: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: one["Properties"] for name, one in resources.items() if one["Type"] == kind}


def parts(value: object) -> Iterator[object]:
    """A value and all that is in it, at any depth."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(inner)


def objects(value: object) -> Iterator[dict[str, Any]]:
    return (part for part in parts(value) if isinstance(part, dict))


def texts(value: object) -> Iterator[str]:
    return (part for part in parts(value) if isinstance(part, str))


def statements(value: object) -> Iterator[dict[str, Any]]:
    """Every statement of every policy, wherever it stands."""
    for part in objects(value):
        yield from part.get("Statement", ())


def references(value: object) -> Iterator[str]:
    """Whatever Ref, GetAtt and Sub name."""
    for part in objects(value):
        yield from texts(part.get("Ref", []))
        yield from part.get("Fn::GetAtt", ())[:1]
        for text in texts(part.get("Fn::Sub", [])):
            yield from re.findall(r"\$\{(\w+)", text)
