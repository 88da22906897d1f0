"""Keeps pandas out of a process.

PyArrow imports it, where it is installed, when the first Python list becomes an array: 0.4 s and 40 MB, for nothing
that the programs do. The driver of Spark cannot do without it, as PySpark asks for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

_NAME = "pandas"


class _Refusing(MetaPathFinder):
    """Finds no pandas, wherever it is installed."""

    def find_spec(self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> None:
        if fullname == _NAME:
            raise ModuleNotFoundError("pandas is kept out of this process", name=_NAME)


_refusing = _Refusing()


def keep_out_pandas() -> None:
    """Have imports of pandas fail as if it were not installed."""
    sys.meta_path.insert(0, _refusing)


def admit_pandas() -> None:
    """Have imports of pandas succeed again."""
    if _refusing in sys.meta_path:
        sys.meta_path.remove(_refusing)
