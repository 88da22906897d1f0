"""The form of an answer for programs; its text for people, lines of a label and a value, is each answer's own."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class JsonAnswer:
    """The base of dataclasses that are answers."""

    def as_json(self: DataclassInstance) -> str:
        """One object with the attributes as keys; times are ISO 8601 in UTC."""
        return json.dumps(asdict(self), default=datetime.isoformat)
